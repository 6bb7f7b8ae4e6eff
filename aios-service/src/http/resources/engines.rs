//! Engines and the shards of the runs: `/engines`, `/shards`.
//!
//! Both are views of the leases in the store. An engine is known by the lease of its slot; what
//! else its owner holds are its shards and the relay. There is no other registry of engines, so an
//! engine that died is gone from the list when its leases expire.

use std::collections::BTreeMap;

use aios_core::{
    event::Timestamp,
    store::{self, Lease, Page, PageRequest},
};
use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::http::{
    ApiError,
    layers::{Caller, EnginesRead},
    protocol::{Filters, List, Listing, Query, Resource, count},
    state::Api,
};

/// Name of the list in cursors.
const LIST: &str = "engines";

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_engines)).routes(routes!(list_shards))
}

/// An engine that is alive.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct Engine {
    /// Its number, which no other living engine has.
    slot: u16,
    /// Numbers of the shards that it owns.
    shards: Vec<u16>,
    /// Whether it relays the log to the broker.
    is_relay: bool,
    /// When it counts as dead unless it renews its lease, by the clock of the store.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EngineQuery {
    /// Maximum number of resources of a page; 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "count")]
    limit: Option<usize>,
    /// `meta.next` of the page before, with the same filters.
    after: Option<String>,
}

/// List engines
///
/// Returns a page of the engines that are alive, in a stable order. An engine that starts again has
/// another id.
#[utoipa::path(
    get,
    path = "/engines",
    tag = "engines",
    params(EngineQuery),
    security(("bearer" = ["engines:read"]), ("api_key" = ["engines:read"])),
    responses((status = 200, description = "A page of engines.", body = Listing<Engine>)),
)]
async fn list_engines(
    State(api): State<Api>,
    _: Caller<EnginesRead>,
    filters: Filters,
    Query(query): Query<EngineQuery>,
) -> Result<Response, ApiError> {
    let list = List::new(LIST, filters);
    let request = list.request(query.limit, query.after.as_deref())?;
    let engines = engines(&api.store()?.leases().await?);
    Ok(list.answer(&api, page_of(engines, &request), |(id, engine)| {
        Resource::new("engine", id, engine)
    }))
}

/// The owners of slots, by their ids, with what else they own.
fn engines(leases: &[Lease]) -> BTreeMap<String, Engine> {
    let of_slot = |lease: &Lease| {
        let slot = lease.shard.slot_number()?;
        let expires_at = lease.expires_at;
        let engine = Engine { slot, shards: Vec::new(), is_relay: false, expires_at };
        Some((lease.owner.as_str().to_owned(), engine))
    };
    let mut engines: BTreeMap<_, _> = leases.iter().filter_map(of_slot).collect();
    for Lease { shard, owner, .. } in leases {
        let Some(engine) = engines.get_mut(owner.as_str()) else { continue };
        engine.is_relay |= *shard == store::Shard::RELAY;
        if shard.is_share() {
            engine.shards.push(shard.number());
        }
    }
    engines.values_mut().for_each(|engine| engine.shards.sort_unstable());
    engines
}

/// Takes a page out of all resources of a kind, which are few.
pub(super) fn page_of<R>(all: BTreeMap<String, R>, request: &PageRequest) -> Page<(String, R)> {
    let PageRequest { after, limit } = request;
    let is_later = |id: &str| after.as_deref().is_none_or(|after| id > after);
    let mut rows: Vec<_> = all.into_iter().filter(|(id, _)| is_later(id)).collect();
    let has_more = rows.len() > *limit;
    rows.truncate(*limit);
    let last = rows.last().filter(|_| has_more);
    let next = last.map(|(id, _)| PageRequest { after: Some(id.clone()), limit: *limit });
    Page { rows, next, unreadable: Vec::new() }
}

/// A fixed share of the runs, owned by one engine at a time.
#[derive(Debug, Serialize, ToSchema)]
struct Shard {
    /// Id of the engine that owns it; `null` if none does.
    engine_id: Option<String>,
    /// How many owners it has had, if it is owned.
    epoch: Option<u64>,
    /// When it is free unless its owner renews its lease, by the clock of the store.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// List shards
///
/// Returns all shards, those without an owner too. The runs of a shard without an owner are not
/// advanced. There are no further pages.
#[utoipa::path(
    get,
    path = "/shards",
    tag = "engines",
    security(("bearer" = ["engines:read"]), ("api_key" = ["engines:read"])),
    responses((status = 200, description = "The shards.", body = Listing<Shard>)),
)]
async fn list_shards(State(api): State<Api>, _: Caller<EnginesRead>) -> Result<Response, ApiError> {
    let leases = api.store()?.leases().await?;
    let owned: BTreeMap<_, _> = leases.into_iter().map(|lease| (lease.shard, lease)).collect();
    let shards = store::Shard::all().map(|shard| {
        let lease = owned.get(&shard);
        let attributes = Shard {
            engine_id: lease.map(|lease| lease.owner.as_str().to_owned()),
            epoch: lease.map(|lease| lease.epoch.0),
            expires_at: lease.map(|lease| lease.expires_at),
        };
        Resource::new("shard", shard.to_string(), attributes)
    });
    Ok(api.listing(shards.collect(), None, Vec::new()))
}

#[cfg(test)]
mod tests {
    use aios_core::store::{Epoch, OwnerId};

    use super::*;

    fn lease(shard: store::Shard, owner: &str) -> Lease {
        let epoch = Epoch(1);
        Lease { shard, epoch, owner: OwnerId::new(owner), expires_at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn should_find_what_each_engine_owns_and_nothing_else() {
        let found = engines(&[
            lease(store::Shard::new(7).unwrap(), "a"),
            lease(store::Shard::slot(1), "b"),
            lease(store::Shard::new(3).unwrap(), "a"),
            lease(store::Shard::slot(0), "a"),
            lease(store::Shard::RELAY, "a"),
            lease(store::Shard::guests(0), "a welcome@1"),
            lease(store::Shard::projection(0).unwrap(), "projection"),
            lease(store::Shard::new(9).unwrap(), "gone"),
        ]);
        let engine = |slot, shards: &[u16], is_relay| {
            let shards = shards.to_vec();
            let expires_at = Timestamp::UNIX_EPOCH;
            Engine { slot, shards, is_relay, expires_at }
        };
        let expected = [("a", engine(0, &[3, 7], true)), ("b", engine(1, &[], false))];
        let expected = expected.map(|(id, engine)| (id.to_owned(), engine));
        assert_eq!(found, BTreeMap::from(expected));
    }

    #[test]
    fn should_page_through_all_engines() {
        let ids = ["a", "b", "c", "d", "e"];
        let leases: Vec<_> =
            (0..).zip(ids).map(|(slot, id)| lease(store::Shard::slot(slot), id)).collect();
        let mut found = Vec::new();
        let mut next = Some(PageRequest::first(2));
        while let Some(request) = next {
            let page = page_of(engines(&leases), &request);
            assert!(!page.rows.is_empty() && page.rows.len() <= 2);
            found.extend(page.rows.into_iter().map(|(id, _)| id));
            next = page.next;
        }
        assert_eq!(found, ids);
    }
}
