//! The runs of a shard without their code: found when an engine acquires the shard, parked while they
//! wait, and loaded when something happens.

mod notes;
pub(super) mod parking;
pub(super) mod reads;
pub(super) mod recover;
mod recovering;

pub(crate) use self::parking::{Parked, Parking};
pub(crate) use self::reads::Start;
pub(crate) use self::recovering::Recovering;
