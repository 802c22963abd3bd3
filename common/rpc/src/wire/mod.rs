//! What both ends of a call read and write alike.

mod code;
mod frames;
pub(crate) mod method;
pub(crate) mod metrics;
pub(crate) mod timeout;

pub(crate) use code::{code_in, code_name};
pub(crate) use frames::{FrameCounter, TooLong};
