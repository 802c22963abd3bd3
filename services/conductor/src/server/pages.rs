//! Lists, page by page.

use kilonova_model::page::{MAX_PAGE_BYTES, decode_token, encode_token, page_size};
use kilonova_model::{Error, Reason};
use kilonova_proto::conductor::v1::{InstanceRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use prost::Message;

use super::shown;
use crate::cache::{Cache, Entry};
use crate::placed::Placed;

/// Which records a list or watch is about.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filter<S> {
    pub project: String,
    pub states: Vec<S>,
    pub host: String,
    pub ids: Vec<String>,
}

impl Filter<i32> {
    fn pass(&self, project: &str, state: i32, host: &str, id: &str, deleted: i32) -> bool {
        (self.project.is_empty() || self.project == project)
            && (self.host.is_empty() || self.host == host)
            && (self.ids.is_empty() || self.ids.iter().any(|wanted| wanted == id))
            && if self.states.is_empty() { state != deleted } else { self.states.contains(&state) }
    }

    pub fn instance(&self, record: &InstanceRecord) -> bool {
        let i = record.resource();
        self.pass(&i.project_id, i.state, &i.host, &i.id, pb::instance::State::Deleted.into())
    }

    pub fn volume(&self, record: &VolumeRecord) -> bool {
        let v = record.resource();
        self.pass(&v.project_id, v.state, &v.host, &v.id, pb::volume::State::Deleted.into())
    }
}

/// One page of records that pass, and the token of the next.
pub(super) fn page<P: Placed>(
    cache: &Cache<P::Id, P>,
    size: i32,
    token: &str,
    filter: &Filter<i32>,
    pass: impl Fn(&P) -> bool,
) -> Result<(Vec<P::Resource>, String), Error> {
    let limit = page_size(size)?;
    let filter = format!("{filter:?}");
    let after = read_after::<P::Id>(&filter, token)?;
    let (mut entries, mut more) = cache.page(after.as_ref(), limit, |_, record| pass(record));
    more |= cut(&mut entries, |record| record.resource().encoded_len());
    let next = next_token(&filter, &entries, more);
    Ok((entries.iter().map(|(_, entry)| shown(entry)).collect(), next))
}

/// Cuts a page to what a receiver takes; says whether something was cut off.
pub(super) fn cut<I, R>(entries: &mut Vec<(I, Entry<R>)>, size: impl Fn(&R) -> usize) -> bool {
    let mut bytes = 0;
    let fitting = entries.iter().take_while(|(_, entry)| {
        bytes += size(&entry.record);
        bytes <= MAX_PAGE_BYTES
    });
    let fitting = fitting.count().max(1);
    let is_cut = fitting < entries.len();
    entries.truncate(fitting);
    is_cut
}

pub(super) fn read_after<I: std::str::FromStr>(filter: &str, token: &str) -> Result<Option<I>, Error> {
    let Some(last) = decode_token(filter, token)? else { return Ok(None) };
    last.parse().map(Some).map_err(|_| Error::new(Reason::PageTokenInvalid, "page_token names no record"))
}

pub(super) fn next_token<I: ToString, R>(filter: &str, entries: &[(I, Entry<R>)], more: bool) -> String {
    match entries.last() {
        Some((id, _)) if more => encode_token(filter, &id.to_string()),
        _ => String::new(),
    }
}
