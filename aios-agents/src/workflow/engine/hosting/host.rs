//! An engine as others see it: the fence of its guest lease, and its workflows.
//!
//! The owner of a guest lease is a text, `<engine> <workflow>@<version> …`, and leases are read by
//! every engine anyway. So each engine knows the workflows of all others without a further table. After
//! the workflows comes `#<number>` if the engine had guest leases before this one.

use aios_core::store::{Fence, Lease, OwnerId};

/// An engine that can take over runs of other engines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// The fence under which it advances guests.
    fence: Fence,
    /// Its name and workflows.
    owner: OwnerId,
}

impl Host {
    /// Reads a guest lease.
    pub(crate) fn of(lease: &Lease) -> Self {
        Self { fence: lease.fence(), owner: lease.owner.clone() }
    }

    /// The fence under which it advances the runs that were moved to it.
    pub(crate) fn fence(&self) -> Fence {
        self.fence
    }

    /// Name of the engine.
    pub(crate) fn engine(&self) -> &str {
        self.owner.as_str().split(' ').next().unwrap_or_default()
    }

    /// Whether it has code for this version of a workflow.
    pub(crate) fn has(&self, workflow: &str, version: u32) -> bool {
        self.versions(workflow).any(|hosted| hosted == version)
    }

    /// The versions of a workflow that it has code for.
    pub(crate) fn versions(&self, workflow: &str) -> impl Iterator<Item = u32> {
        let hosted = self.owner.as_str().split(' ').skip(1).filter_map(|it| it.rsplit_once('@'));
        hosted
            .filter(move |(name, _)| *name == workflow)
            .filter_map(|(_, number)| number.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use aios_core::store::{Epoch, Shard};

    use super::*;

    #[test]
    fn should_know_which_workflow_versions_an_engine_has() {
        let fence = Fence { shard: Shard::guests(3), epoch: Epoch(2) };
        let host = |owner: &str| Host { fence, owner: OwnerId::new(owner) };
        let both = host("e1 deploy@1 deploy@12 review@2");
        for (workflow, version, is_there) in [
            ("deploy", 1, true),
            ("deploy", 12, true),
            ("deploy", 2, false),
            ("review", 2, true),
            ("view", 2, false),
            ("e1", 1, false),
        ] {
            assert_eq!(both.has(workflow, version), is_there, "{workflow}@{version}");
        }
        assert_eq!((both.engine(), host("e2").engine()), ("e1", "e2"));
        assert!(!host("e2").has("deploy", 1));
        let again = host("e1 deploy@1 #2");
        assert!(again.has("deploy", 1) && again.engine() == "e1");
    }
}
