//! Named tasks: who runs, for whom, since when, and how it ends.
//!
//! Every task belongs to an owner and stops when the owner's token is cancelled. There are two ways to stop:
//! - [`Tasks::spawn`]: the future is dropped at its next `.await`. For loops that may be cut anywhere.
//! - [`Tasks::spawn_graceful`]: the future is given the token and ends by itself; it is cut only when
//!   [`Tasks::shutdown`] runs out of time, and is then named in the log.
//!
//! A panic ends its own task alone: it is logged with the task's name and counted.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

/// A group of tasks with one owner and one token. Clones share both.
#[derive(Clone, Debug)]
pub struct Tasks {
    group: Arc<Group>,
    token: CancellationToken,
    table: Arc<Table>,
}

#[derive(Debug)]
struct Group {
    owner: Arc<str>,
    /// The groups around it, outermost first, and itself.
    path: Vec<u64>,
    /// What its tasks log in.
    span: Span,
}

#[derive(Debug)]
struct Table {
    running: Mutex<BTreeMap<u64, Entry>>,
    /// Told whenever a task has ended.
    ended: watch::Sender<()>,
    next: AtomicU64,
    panics: AtomicU64,
}

impl Table {
    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Entry {
    name: Cow<'static, str>,
    group: Arc<Group>,
    started: Instant,
    started_at: SystemTime,
    abort: Option<AbortHandle>,
}

/// One running task.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct TaskInfo {
    /// What it does.
    pub name: String,
    /// For whom.
    pub owner: String,
    /// When it started, in seconds since 1970.
    pub started_unix: u64,
    /// For how long it has been running.
    pub age_seconds: f64,
}

/// Why a task gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskLost {
    /// It panicked; the log says where.
    #[error("the task panicked")]
    Panicked,
    /// Its owner stopped first.
    #[error("the task was cancelled")]
    Cancelled,
}

/// Waits for a task's result. Dropping it leaves the task running.
#[derive(Debug)]
pub struct TaskHandle<T> {
    join: JoinHandle<Result<T, TaskLost>>,
}

impl<T> TaskHandle<T> {
    /// Cuts the task at its next `.await`.
    pub fn abort(&self) {
        self.join.abort();
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, TaskLost>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let joined = ready!(Pin::new(&mut self.join).poll(cx));
        Poll::Ready(joined.unwrap_or(Err(TaskLost::Cancelled)))
    }
}

impl Tasks {
    /// A group of its own.
    pub fn new(owner: impl Into<Arc<str>>) -> Self {
        let table = Table {
            running: Mutex::default(),
            ended: watch::Sender::new(()),
            next: AtomicU64::new(0),
            panics: AtomicU64::new(0),
        };
        let group = Group { owner: owner.into(), path: vec![table.next()], span: Span::none() };
        Self { group: Arc::new(group), token: CancellationToken::new(), table: Arc::new(table) }
    }

    /// The same group, not used yet, whose tasks log in a span; so do those of groups made from it.
    #[must_use]
    pub fn in_span(self, span: Span) -> Self {
        let Group { owner, path, .. } = &*self.group;
        let group = Group { owner: owner.clone(), path: path.clone(), span };
        Self { group: Arc::new(group), ..self }
    }

    /// What its tasks log in.
    pub fn span(&self) -> &Span {
        &self.group.span
    }

    /// A part of this group: listed with it and stopped with it, and can be stopped alone.
    pub fn child(&self, owner: impl Into<Arc<str>>) -> Self {
        let mut path = self.group.path.clone();
        path.push(self.table.next());
        let group = Arc::new(Group { owner: owner.into(), path, span: self.group.span.clone() });
        Self { group, token: self.token.child_token(), table: self.table.clone() }
    }

    /// Cancelled when the group stops.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs a future that may be dropped at any `.await` once the group stops.
    pub fn spawn<F>(&self, name: impl Into<Cow<'static, str>>, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let token = self.token.clone();
        // Boxed before it is wrapped: each wrapper would hold room for it twice, for as long as the task lives.
        let future = Box::pin(future);
        self.start(name.into(), async move { token.run_until_cancelled_owned(future).await })
    }

    /// Runs a future that ends by itself soon after the token it is given was cancelled.
    pub fn spawn_graceful<F, Fut>(
        &self,
        name: impl Into<Cow<'static, str>>,
        make: F,
    ) -> TaskHandle<Fut::Output>
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future + Send + 'static,
        Fut::Output: Send + 'static,
    {
        let future = make(self.token.clone());
        self.start(name.into(), Box::pin(future).map(Some))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where tasks are made")]
    fn start<T, F>(&self, name: Cow<'static, str>, future: F) -> TaskHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let row = Row::insert(&self.table, name.clone(), self.group.clone());
        let (id, table, owner) = (row.id, self.table.clone(), self.group.owner.clone());
        let task = async move {
            let _row = row;
            match AssertUnwindSafe(future).catch_unwind().await {
                Ok(result) => result.ok_or(TaskLost::Cancelled),
                Err(panic) => {
                    table.panics.fetch_add(1, Ordering::Relaxed);
                    metrics::counter!("kilonova_task_panics_total", "owner" => owner.to_string())
                        .increment(1);
                    tracing::error!(task = %name, owner = %owner, panic = panic_text(&*panic), "task panicked");
                    Err(TaskLost::Panicked)
                }
            }
        };
        let join = tokio::spawn(task.instrument(self.group.span.clone()));
        if let Some(entry) = self.table.running.lock().get_mut(&id) {
            entry.abort = Some(join.abort_handle());
        }
        TaskHandle { join }
    }

    /// What runs now in this group and those made from it, oldest first.
    pub fn list(&self) -> Vec<TaskInfo> {
        let running = self.table.running.lock();
        running.values().filter(|entry| self.owns(entry)).map(Entry::info).collect()
    }

    fn owns(&self, entry: &Entry) -> bool {
        entry.group.path.starts_with(&self.group.path)
    }

    /// How many tasks have panicked, in this group and all groups of the same origin.
    pub fn panics(&self) -> u64 {
        self.table.panics.load(Ordering::Relaxed)
    }

    /// Cancels the group and waits until nothing of it runs. Tasks not ended by the deadline are named in the log,
    /// cut, and returned.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<TaskInfo> {
        self.token.cancel();
        let mut ended = self.table.ended.subscribe();
        // The sender is in the table, which outlives the wait.
        let drained = async { while !self.list().is_empty() && ended.changed().await.is_ok() {} };
        if tokio::time::timeout(deadline, drained).await.is_ok() {
            return Vec::new();
        }
        let running = self.table.running.lock();
        let late = running.values().filter(|entry| self.owns(entry));
        let cut = late.map(|entry| {
            tracing::warn!(task = %entry.name, owner = %entry.group.owner, "task is late to stop and was cut");
            if let Some(abort) = &entry.abort {
                abort.abort();
            }
            entry.info()
        });
        cut.collect()
    }
}

impl Entry {
    fn info(&self) -> TaskInfo {
        let since_1970 = self.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        TaskInfo {
            name: self.name.to_string(),
            owner: self.group.owner.to_string(),
            started_unix: since_1970.as_secs(),
            age_seconds: self.started.elapsed().as_secs_f64(),
        }
    }
}

/// A task's row in the table, removed however the task ends.
struct Row {
    id: u64,
    table: Arc<Table>,
}

impl Row {
    fn insert(table: &Arc<Table>, name: Cow<'static, str>, group: Arc<Group>) -> Self {
        let id = table.next();
        let entry =
            Entry { name, group, started: Instant::now(), started_at: SystemTime::now(), abort: None };
        table.running.lock().insert(id, entry);
        Self { id, table: table.clone() }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.table.running.lock().remove(&self.id);
        self.table.ended.send_replace(());
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_results_and_survives_panics() {
        let tasks = Tasks::new("test");
        assert_eq!(tasks.spawn("sum", async { 1 + 1 }).await, Ok(2));
        assert_eq!(
            tasks.spawn("bad", async { panic!("on purpose") }).await,
            Err::<(), _>(TaskLost::Panicked)
        );
        assert_eq!(tasks.panics(), 1);
        assert!(tasks.list().is_empty());
    }

    #[tokio::test]
    async fn lists_what_runs_with_its_owner() {
        let tasks = Tasks::new("outer");
        let _one = tasks.spawn("one", std::future::pending::<()>());
        let _two = tasks.child("inner").spawn(format!("two-{}", 2), std::future::pending::<()>());
        let listed: Vec<_> = tasks.list().into_iter().map(|task| (task.owner, task.name)).collect();
        assert_eq!(listed, [("outer".into(), "one".into()), ("inner".into(), "two-2".into())]);
    }

    #[tokio::test]
    async fn logs_in_its_group_s_span() {
        let _log = tracing::subscriber::set_default(tracing_subscriber::registry());
        let tasks = Tasks::new("outer").in_span(tracing::error_span!("member"));
        let name = || async { Span::current().metadata().map(|metadata| metadata.name()) };
        assert_eq!(tasks.child("inner").spawn("look", name()).await, Ok(Some("member")));
        assert_eq!(name().await, None);
    }

    #[tokio::test]
    async fn a_child_stops_alone() {
        let tasks = Tasks::new("outer");
        let kept = tasks.spawn("kept", std::future::pending::<()>());
        let child = tasks.child("inner");
        let cut = child.spawn("cut", std::future::pending::<()>());
        assert_eq!(child.list().len(), 1);
        assert!(child.shutdown(Duration::from_secs(5)).await.is_empty());
        assert_eq!(cut.await, Err(TaskLost::Cancelled));
        assert_eq!(tasks.list().len(), 1);
        kept.abort();
        assert_eq!(kept.await, Err(TaskLost::Cancelled));
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_the_graceful_and_cuts_the_late() {
        let tasks = Tasks::new("test");
        tasks.spawn("dropped", std::future::pending::<()>());
        let graceful = tasks.spawn_graceful("graceful", |token| async move {
            token.cancelled().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            "done"
        });
        let stuck = tasks.spawn_graceful("stuck", |_| std::future::pending::<()>());
        let late = tasks.shutdown(Duration::from_secs(5)).await;
        assert_eq!(late.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), ["stuck"]);
        assert_eq!(graceful.await, Ok("done"));
        assert_eq!(stuck.await, Err(TaskLost::Cancelled));
    }
}
