//! The runs of a shard without their code: found when an engine acquires the shard, parked while they
//! wait, and loaded when something happens.

mod notes;
pub(super) mod parking;
pub(super) mod reads;
pub(super) mod recover;

pub(crate) use self::parking::{Parked, Parking};
pub(crate) use self::reads::Start;
