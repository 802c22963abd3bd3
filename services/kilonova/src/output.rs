//! Standard output, which may be closed by whoever reads it.

use std::io::Write;

/// Writes text to standard output. Once nobody reads it any more there is nothing left to say.
pub fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
