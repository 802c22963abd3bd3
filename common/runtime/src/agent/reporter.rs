//! Telling a conductor how work ended, until it has it.
//!
//! Only the newest report of each resource is kept, so the queue is no longer than there are resources, however
//! long conductors are away. Nothing is kept on disk: after a restart the reports that matter are made again from
//! what the driver finds.

use std::sync::Arc;

use async_trait::async_trait;
use kilonova_rpc::backoff::{Backoff, BackoffPolicy};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::outbox::{Batch, Outbox};

/// Reports in one message, as the contract bounds it.
const MAX_BATCH: usize = 100;

/// How work on one resource ended.
pub trait Report: Clone + Send + Sync + 'static {
    /// What names the resource.
    type Key: Clone + Eq + std::hash::Hash + std::fmt::Debug + Send + 'static;

    /// The resource.
    fn key(&self) -> Self::Key;
}

/// Where reports go.
#[async_trait]
pub trait Sink<R>: Send + Sync + 'static {
    /// Hands them over. OK means that they are stored.
    async fn send(&self, reports: Vec<R>) -> Result<(), Status>;
}

/// The reports of one host. Clones share them.
pub struct Reporter<R: Report> {
    shared: Arc<Shared<R>>,
}

struct Shared<R: Report> {
    outbox: Mutex<Outbox<R>>,
    arrived: Notify,
    pending: metrics::Gauge,
}

impl<R: Report> Clone for Reporter<R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<R: Report> std::fmt::Debug for Reporter<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").field("pending", &self.pending()).finish()
    }
}

impl<R: Report> Reporter<R> {
    /// Nothing to report yet; `pending` shows how much there is.
    pub fn new(pending: metrics::Gauge) -> Self {
        Self { shared: Arc::new(Shared { outbox: Mutex::default(), arrived: Notify::new(), pending }) }
    }

    /// Takes a report in place of the resource's earlier one.
    pub fn put(&self, report: R) {
        let mut outbox = self.shared.outbox.lock();
        outbox.put(report);
        self.shared.pending.set(outbox.len() as f64);
        drop(outbox);
        self.shared.arrived.notify_one();
    }

    /// Reports not yet accepted.
    pub fn pending(&self) -> usize {
        self.shared.outbox.lock().len()
    }

    /// Sends reports as they come, for ever. While conductors are away all wait; a report that they do not store is
    /// tried again after the others; one that they will never take is logged and dropped, after it was sent alone
    /// to be sure which one it is.
    pub async fn run(self, sink: impl Sink<R>) {
        let mut backoff = Backoff::new(BackoffPolicy::reconnect());
        loop {
            let batch = self.next().await;
            let error = match sink.send(batch.reports.clone()).await {
                Ok(()) => {
                    if backoff.failures() > 0 {
                        tracing::info!("reports are accepted again");
                    }
                    backoff.reset();
                    self.remove(&batch);
                    continue;
                }
                Err(error) => error,
            };
            if away(error.code()) {
                if backoff.failures() == 0 {
                    tracing::warn!(
                        error = error.message(),
                        code = ?error.code(),
                        pending = self.pending(),
                        "reports are not accepted; trying until they are"
                    );
                }
                tokio::time::sleep(backoff.next_delay()).await;
                continue;
            }
            if let [report] = &batch.reports[..] {
                let (id, message, code) = (report.key(), error.message(), error.code());
                if code == Code::InvalidArgument {
                    tracing::error!(?id, error = message, "a report is refused and dropped");
                    self.remove(&batch);
                    continue;
                }
                tracing::warn!(
                    ?id,
                    error = message,
                    ?code,
                    "a report is not stored; it is tried again later"
                );
            }
            self.shared.outbox.lock().refuse(&batch, Instant::now());
        }
    }

    async fn next(&self) -> Batch<R> {
        loop {
            let (batch, due) = {
                let outbox = self.shared.outbox.lock();
                (outbox.batch(MAX_BATCH, Instant::now()), outbox.next_due())
            };
            if !batch.reports.is_empty() {
                return batch;
            }
            let later = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shared.arrived.notified() => {}
                () = later => {}
            }
        }
    }

    fn remove(&self, batch: &Batch<R>) {
        let mut outbox = self.shared.outbox.lock();
        outbox.remove(batch);
        self.shared.pending.set(outbox.len() as f64);
    }
}

/// Whether a failure says nothing about what was sent: conductors are out of reach, busy, or were lost on the way.
fn away(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    type Sent = (Vec<(u32, &'static str)>, tokio::sync::oneshot::Sender<Result<(), Status>>);

    /// Hands every batch to the test, which answers it.
    struct Hands(mpsc::UnboundedSender<Sent>);

    #[async_trait]
    impl Sink<(u32, &'static str)> for Hands {
        async fn send(&self, reports: Vec<(u32, &'static str)>) -> Result<(), Status> {
            let (answer, answered) = tokio::sync::oneshot::channel();
            self.0.send((reports, answer)).unwrap();
            answered.await.unwrap()
        }
    }

    type Hand = mpsc::UnboundedReceiver<Sent>;

    fn started() -> (Reporter<(u32, &'static str)>, Hand, crate::tasks::Tasks) {
        let reporter = Reporter::new(metrics::Gauge::noop());
        let tasks = crate::tasks::Tasks::new("test");
        let (sender, hand) = mpsc::unbounded_channel();
        tasks.spawn("reports", reporter.clone().run(Hands(sender)));
        (reporter, hand, tasks)
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_is_sent_until_it_is_accepted_and_replaced_ones_again() {
        let (reporter, mut hand, _tasks) = started();
        reporter.put((1, "old"));
        let (sent, answer) = hand.recv().await.unwrap();
        assert_eq!(sent, [(1, "old")]);
        answer.send(Err(Status::unavailable("no conductor"))).unwrap();
        let (sent, answer) = hand.recv().await.unwrap();
        assert_eq!(sent, [(1, "old")]);
        reporter.put((1, "new"));
        answer.send(Ok(())).unwrap();
        let (sent, answer) = hand.recv().await.unwrap();
        assert_eq!(sent, [(1, "new")]);
        answer.send(Ok(())).unwrap();
        reporter.put((2, "next"));
        assert_eq!(hand.recv().await.unwrap().0, [(2, "next")]);
        assert_eq!(reporter.pending(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn batches_are_bounded() {
        let (reporter, mut hand, _tasks) = started();
        for id in 0..250 {
            reporter.put((id, "x"));
        }
        for expected in [100, 100, 50] {
            let (sent, answer) = hand.recv().await.unwrap();
            assert_eq!(sent.len(), expected);
            answer.send(Ok(())).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_report_nobody_takes_does_not_hold_the_others_up() {
        let (reporter, mut hand, _tasks) = started();
        for report in [(1, "good"), (2, "bad"), (3, "good")] {
            reporter.put(report);
        }
        let mut accepted = Vec::new();
        while accepted.len() < 2 {
            let (sent, answer) = hand.recv().await.unwrap();
            let bad = sent.iter().any(|report| report.1 == "bad");
            if !bad {
                accepted.extend(sent.iter().map(|report| report.0));
            }
            let verdict = if bad { Err(Status::invalid_argument("bad")) } else { Ok(()) };
            answer.send(verdict).unwrap();
        }
        assert_eq!(accepted, [1, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_that_cannot_be_stored_goes_behind_the_others_until_it_can() {
        let (reporter, mut hand, _tasks) = started();
        for report in [(1, "bad"), (2, "good"), (3, "good")] {
            reporter.put(report);
        }
        let mut sent_after = Vec::new();
        for _ in 0..6 {
            let (sent, answer) = hand.recv().await.unwrap();
            let bad = sent.iter().any(|report| report.1 == "bad");
            sent_after.push(sent.iter().map(|report| report.0).collect::<Vec<_>>());
            answer.send(if bad { Err(Status::internal("not stored")) } else { Ok(()) }).unwrap();
        }
        assert_eq!(sent_after, [vec![1, 2, 3], vec![1], vec![2], vec![3], vec![1], vec![1]]);
        let (sent, answer) = hand.recv().await.unwrap();
        assert_eq!(sent, [(1, "bad")]);
        reporter.put((4, "good"));
        answer.send(Ok(())).unwrap();
        assert_eq!(hand.recv().await.unwrap().0, [(4, "good")]);
    }

    #[tokio::test(start_paused = true)]
    async fn conductors_that_are_away_say_nothing_of_a_report() {
        let (reporter, mut hand, _tasks) = started();
        reporter.put((1, "x"));
        reporter.put((2, "x"));
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::ResourceExhausted, Code::Unknown] {
            let (sent, answer) = hand.recv().await.unwrap();
            assert_eq!(sent.len(), 2, "{code:?}");
            answer.send(Err(Status::new(code, "away"))).unwrap();
        }
    }
}
