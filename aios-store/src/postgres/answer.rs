use super::{commit::Committed, load::Load, pool::Database, tail::Tail, wake::Head};

/// A load after its commit, whose callers have not been told yet.
pub(super) struct Done {
    pub(super) load: Load,
    pub(super) committed: Committed,
}

/// Tells callers what became of their appends, and those who follow the log that it has grown.
#[derive(Clone)]
pub(super) struct Answering {
    pub(super) database: Database,
    pub(super) head: Head,
    pub(super) tail: Tail,
}

impl Answering {
    pub(super) fn answer(&self, done: Done) {
        let Done { load: Load { batch, callers }, committed } = done;
        if committed.is_as_sent {
            self.tail.push(&batch, &committed.answers, self.database.clock().now());
        } else {
            self.tail.clear();
        }
        let positions = committed.answers.iter().flatten().map(|appended| appended.position);
        if let Some(last) = positions.max() {
            self.head.committed(last);
        }
        for (mut caller, answer) in callers.into_iter().zip(committed.answers) {
            caller.answer(answer);
        }
    }
}
