//! The calls: each on a client of its own, with one deadline over all its attempts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{Client, CompactionOptions, GetOptions, KvClient, ResponseHeader};
use kilonova_model::Revision;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::convert;
use super::failure::{Effect, Failure};
use super::history::{History, Past, Present, differs};
use super::options::EtcdOptions;
use crate::StoreError;
use crate::page::PageRequest;

/// Between two attempts of one call.
const REPEAT_PAUSE: Duration = Duration::from_millis(50);

/// A page of up to 10,000 values can be large; that it is not too large is up to who asks.
pub(super) const MAX_MESSAGE: usize = i32::MAX as usize;

const ANY_KEY: &str = "kilonova";

/// The client and its patience, and what is known of the store's history.
pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) options: EtcdOptions,
    pub(super) history: History,
    /// How often the token was renewed.
    tokens: AtomicU64,
    renewing: Mutex<()>,
}

/// Keys as etcd returned them.
pub(super) struct Range {
    pub(super) items: Vec<etcd_client::KeyValue>,
    /// The store's revision when it answered, whatever revision was asked for.
    pub(super) revision: Revision,
    pub(super) more: bool,
}

impl Cluster {
    /// Connects, and checks that a majority answers.
    pub(super) async fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        let deadline = options.connect_deadline;
        let connecting = async {
            let cluster = Self::unchecked(options).await?;
            match cluster.revision(ANY_KEY).await {
                // Not for this user, but it was a majority that said so.
                Ok(_) | Err(Failure::Denied(_)) => Ok(cluster),
                Err(failure) => Err(failure.into_error(Effect::Read)),
            }
        };
        match timeout(deadline, connecting).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::unavailable(format!("etcd does not answer within {deadline:?}"))),
        }
    }

    /// Connects when the first call is made.
    pub(super) async fn unchecked(options: EtcdOptions) -> Result<Self, StoreError> {
        let connecting = Client::connect(&options.endpoints, Some(options.for_client()));
        match timeout(options.connect_deadline, connecting).await {
            Ok(Ok(client)) => {
                let (tokens, renewing) = (AtomicU64::new(0), Mutex::default());
                Ok(Self { client, options, history: History::new(), tokens, renewing })
            }
            Ok(Err(error)) => Err(Failure::of(&error).into_error(Effect::Read)),
            Err(_) => Err(StoreError::unavailable("etcd did not take the credentials in time".to_owned())),
        }
    }

    pub(super) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_MESSAGE)
    }

    /// Makes a call, and makes it again where that is safe: a call may meet a connection that has just died, or a member
    /// that is not there.
    pub(super) async fn call<T, F>(&self, effect: Effect, attempt: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let attempts = 2 * self.options.endpoints.len();
        let calling = async {
            let mut made = 1;
            loop {
                let token = self.tokens.load(Ordering::SeqCst);
                let failure = match attempt().await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => Failure::of(&error),
                };
                if made >= attempts || !failure.is_worth_repeating(effect) {
                    return Err(failure);
                }
                if let Failure::TokenOld(_) = failure {
                    self.renew_token(token).await?;
                }
                made += 1;
                tokio::time::sleep(REPEAT_PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
            }
        };
        let deadline = self.options.call_deadline;
        match timeout(deadline, calling).await {
            Ok(result) => result,
            Err(_) => Err(Failure::MaybeDone(format!("etcd did not answer within {deadline:?}"))),
        }
    }

    /// Takes a new token, unless another call has since that one was used.
    async fn renew_token(&self, used: u64) -> Result<(), Failure> {
        let _turn = self.renewing.lock().await;
        if self.tokens.load(Ordering::SeqCst) != used {
            return Ok(());
        }
        match self.client.refresh_token().await.map_err(|error| Failure::of(&error)) {
            Ok(()) => {
                self.tokens.store(used + 1, Ordering::SeqCst);
                tracing::info!("etcd's users or roles were changed; the token is renewed");
                Ok(())
            }
            Err(Failure::Denied(message)) => Err(Failure::Denied(message)),
            Err(failure) => {
                let why = failure.into_error(Effect::Read);
                Err(Failure::NotDone(format!("the token is old and cannot be renewed: {why}")))
            }
        }
    }

    /// Takes a new token where there are credentials, for a stream that was refused without a reason of its own.
    pub(super) async fn renew_token_now(&self) {
        if self.options.credentials.is_none() {
            return;
        }
        let renewing = self.renew_token(self.tokens.load(Ordering::SeqCst));
        if let Ok(Err(failure)) = timeout(self.options.call_deadline, renewing).await {
            tracing::debug!(?failure, "the token is not renewed");
        }
    }

    /// Compares the store with what was seen of it, and begins its history anew if it is another one. Returns its revision.
    pub(super) async fn probe(&self) -> Result<Revision, Failure> {
        let seen = self.history.seen();
        let readable = seen.witness.as_ref().map_or(seen.readable.as_str(), |witness| &witness.key);
        let now = self.present(readable).await?;
        let past = match &seen.witness {
            Some(witness) if now.revision >= witness.mod_revision => {
                Some(self.past(&witness.key, witness.mod_revision).await?)
            }
            _ => None,
        };
        match differs(&seen, now, past.as_ref()) {
            Some(reason) => self.history.begin_anew(seen.count, now, reason),
            None => self.history.confirm(seen.count, now, past),
        }
        Ok(now.revision)
    }

    async fn past(&self, key: &str, revision: Revision) -> Result<Past, Failure> {
        match self.value(key, Some(revision)).await {
            Err(Failure::NoSuchRevision) => self.value(key, None).await.map(Past::Now),
            then => then.map(Past::Then),
        }
    }

    async fn value(&self, key: &str, at: Option<Revision>) -> Result<Option<crate::KeyValue>, Failure> {
        let options = GetOptions::new().with_revision(at.map_or(0, to_etcd));
        let call = || async { self.kv().get(key, Some(options.clone())).await };
        let found = self.call(Effect::Read, call).await?.take_kvs().pop().map(convert::key_value);
        found.transpose().map_err(|error| Failure::NotDone(error.to_string()))
    }

    /// Forgets what was before a revision. One that is forgotten already is no error.
    pub(super) async fn compact(&self, revision: Revision) -> Result<(), Failure> {
        let call =
            || async { self.kv().compact(to_etcd(revision), Some(CompactionOptions::new())).await.map(drop) };
        match self.call(Effect::Repeatable, call).await {
            Err(Failure::NoSuchRevision) => Ok(()),
            answer => answer,
        }
    }

    /// The store's revision now, asked for by way of a key that this user may read.
    pub(super) async fn revision(&self, readable: &str) -> Result<Revision, Failure> {
        self.present(readable).await.map(|now| now.revision)
    }

    async fn present(&self, readable: &str) -> Result<Present, Failure> {
        let key = if readable.is_empty() { ANY_KEY } else { readable };
        let options = GetOptions::new().with_count_only();
        let call = || async { self.kv().get(key, Some(options.clone())).await };
        let answer = self.call(Effect::Read, call).await?;
        answer.header().map(Present::of).ok_or_else(without_revision)
    }

    /// Reads up to `request.limit` keys, at the revision of the request if it has one.
    pub(super) async fn range(&self, request: &PageRequest, keys_only: bool) -> Result<Range, Failure> {
        // To etcd a range from or to the zero byte is one without that end.
        let start = if request.start.is_empty() { vec![0] } else { request.start.clone() };
        let end = request.end.clone().unwrap_or_else(|| vec![0]);
        let mut options = GetOptions::new()
            .with_range(end)
            .with_limit(i64::try_from(request.limit).unwrap_or(i64::MAX))
            .with_revision(request.revision.map_or(0, to_etcd));
        if keys_only {
            options = options.with_keys_only();
        }
        let call = || async { self.kv().get(start.clone(), Some(options.clone())).await };
        let mut answer = self.call(Effect::Read, call).await?;
        let revision = revision_of(answer.header())?;
        Ok(Range { more: answer.more(), items: answer.take_kvs(), revision })
    }

    /// Reads a whole range at one revision, page by page.
    pub(super) async fn everything(
        &self,
        mut request: PageRequest,
        keys_only: bool,
    ) -> Result<(Vec<etcd_client::KeyValue>, Revision), Failure> {
        let mut items = Vec::new();
        loop {
            let page = self.range(&request, keys_only).await?;
            let revision = *request.revision.get_or_insert(page.revision);
            items.extend(page.items);
            match items.last() {
                Some(last) if page.more => request.start = [last.key(), b"\0"].concat(),
                _ => return Ok((items, revision)),
            }
        }
    }
}

pub(super) fn revision_of(header: Option<&ResponseHeader>) -> Result<Revision, Failure> {
    let revision = header.and_then(|header| u64::try_from(header.revision()).ok());
    revision.map(Revision).ok_or_else(without_revision)
}

fn without_revision() -> Failure {
    Failure::MaybeDone("etcd answered without a revision".to_owned())
}

pub(super) fn to_etcd(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}
