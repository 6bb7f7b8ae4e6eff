use super::{
    batch::Batch,
    callers::{Caller, Pending},
};

/// Appends that go to the server together, and who waits for them.
#[derive(Default)]
pub(super) struct Load {
    pub(super) batch: Batch,
    pub(super) callers: Vec<Caller>,
}

impl Load {
    /// Each append as a load of its own.
    pub(super) fn split(self) -> impl Iterator<Item = Self> {
        let callers = self.callers.into_iter().map(|caller| vec![caller]);
        let batches: Vec<Batch> = self.batch.split().collect();
        batches.into_iter().zip(callers).map(|(batch, callers)| Self { batch, callers })
    }

    /// Those appends that are wanted, given for each.
    pub(super) fn only(self, wanted: &[bool]) -> Self {
        let callers = self.callers.into_iter().zip(wanted).filter(|(_, wanted)| **wanted);
        Self {
            batch: self.batch.only(wanted),
            callers: callers.map(|(caller, _)| caller).collect(),
        }
    }

    pub(super) fn push(&mut self, Pending { admitted, caller }: Pending) {
        self.batch.push(admitted);
        self.callers.push(caller);
    }
}
