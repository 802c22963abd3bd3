//! What the agents of hypervisors and of storage backends share.
//!
//! ```text
//!  conductor ──command──► guard ──► executor ──► driver       scheduler ◄──stream── capability server
//!      ▲                             │   │ ledger, claims                               ▲
//!      └──── reporter ◄──── end ─────┘   └───────── changes ────────► publisher ────────┘
//! ```
//!
//! [`guard`] refuses commands meant for others. [`executor`] does each command once and reports its end; its memory
//! is the [`ledger`]. [`reporter`] sends reports until a conductor has them; [`register`] keeps the host known and
//! brings the administrator's word ([`admin`]). [`publisher`] holds the current capabilities, [`capability_server`]
//! streams them. [`reconcile`] goes on from what an earlier
//! incarnation left, and [`orphans`] leaves what is in no record alone for a while; [`store_memory`] knows another
//! store from the one that the data are known to, and [`data_dir`] another agent's data; [`inventory`] tells what there is. [`life`] runs all of it. [`simulated`] is what drivers without hardware share.

pub mod admin;
pub mod capability_server;
pub mod conductor;
pub mod data_dir;
pub mod executor;
pub mod guard;
pub mod inventory;
pub mod ledger;
pub mod life;
mod meters;
pub mod orphans;
mod outbox;
pub mod publisher;
pub mod reconcile;
pub mod reconciled;
pub mod register;
pub mod reporter;
pub mod simulated;
pub mod store_memory;
pub mod work;
