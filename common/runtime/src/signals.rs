//! What the process does when it is signalled.
//!
//! SIGTERM and SIGINT ask for a graceful stop; a second one ends the process at once. SIGHUP and SIGUSR2 are hooks:
//! the one re-reads what can change while running, the other writes diagnostics to the log.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

/// How a process ends that was signalled twice, as shells report an interrupted command.
pub const IMPATIENT_EXIT_CODE: i32 = 130;

/// Cancels `stop` at the first SIGTERM or SIGINT and exits at the second.
///
/// The watching task outlives `stop`, or nobody would see the second signal: `tasks` must not be stopped by it.
pub fn stop_on_terminate(tasks: &Tasks, stop: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tasks.spawn("signals", async move {
        let name = either(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name, "stopping; a second signal ends the process at once");
        stop.cancel();
        let name = either(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = name, "stopped at once, by a second signal");
        std::process::exit(IMPATIENT_EXIT_CODE);
    });
    Ok(())
}

/// Calls `hook` at every SIGHUP.
pub fn on_hangup(tasks: &Tasks, hook: impl FnMut() + Send + 'static) -> io::Result<()> {
    on_signal(tasks, "signal hangup", SignalKind::hangup(), hook)
}

/// Calls `hook` at every SIGUSR2.
pub fn on_user2(tasks: &Tasks, hook: impl FnMut() + Send + 'static) -> io::Result<()> {
    on_signal(tasks, "signal user2", SignalKind::user_defined2(), hook)
}

fn on_signal(
    tasks: &Tasks,
    name: &'static str,
    kind: SignalKind,
    mut hook: impl FnMut() + Send + 'static,
) -> io::Result<()> {
    let mut signals = signal(kind)?;
    tasks.spawn(name, async move {
        while signals.recv().await.is_some() {
            hook();
        }
    });
    Ok(())
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
