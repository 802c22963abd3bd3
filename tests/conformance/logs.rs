//! What this process logs, from information upwards.

use std::io;
use std::sync::LazyLock;

use parking_lot::Mutex;
use tracing::Level;

static TEXT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

static INSTALLED: LazyLock<()> = LazyLock::new(|| {
    let log = tracing_subscriber::fmt().with_max_level(Level::INFO).with_ansi(false).with_writer(|| Keep);
    tracing::subscriber::set_global_default(log.finish()).expect("nobody else logs here");
});

struct Keep;

impl io::Write for Keep {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        TEXT.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps the log from here on.
pub fn keep() {
    LazyLock::force(&INSTALLED);
}

/// The lines with this text in them.
pub fn lines_with(text: &str) -> Vec<String> {
    let all = String::from_utf8_lossy(&TEXT.lock()).into_owned();
    all.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}
