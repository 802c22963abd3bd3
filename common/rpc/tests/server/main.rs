//! The server as its callers see it, over real connections.

mod calls;
mod reflection;
mod setup;
mod stop;
