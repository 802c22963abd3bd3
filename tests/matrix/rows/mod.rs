//! The flows, one a row: what is there before, and what is asked then. What is wanted in the end is what the user
//! writes down with each answer: see [`User`].

use futures::future::BoxFuture;
use kilonova_tests::Plan;
use kilonova_tests::user::User;

use crate::hand::Hand;

/// The ids that the first part hands to the second.
pub type Ids = Vec<String>;

/// One flow.
#[derive(Clone, Copy)]
pub struct Row {
    /// What is asked.
    pub name: &'static str,
    /// What is set otherwise than in other rows.
    pub adjust: fn(&mut Plan),
    /// What is there before. Nothing fails yet.
    pub prepare: fn(User, Hand) -> BoxFuture<'static, Ids>,
    /// What is asked. Here it fails.
    pub act: fn(User, Ids, Hand) -> BoxFuture<'static, ()>,
    /// Whether it is failed at each of its points too; otherwise it is only run undisturbed.
    pub is_failed: bool,
    /// Whether the cell comes to rest: otherwise only what must hold at every moment is judged.
    pub rests: bool,
    /// Whether it needs a store that no other cell has.
    pub own_store: bool,
}

impl Row {
    /// What is done to its cell is enough.
    const fn only_undisturbed(self) -> Self {
        Self { is_failed: false, ..self }
    }

    /// Something is done to its store: of what it says then, nothing is known.
    const fn with_another_store(self) -> Self {
        Self { is_failed: false, rests: false, own_store: true, ..self }
    }
}

/// Writes a row: `row!("name", |u| prepare, |u, ids| act)`, with what is set otherwise after the name, and with the hand as the
/// last of both parts' arguments where one needs it.
macro_rules! row {
    ($name:literal, |$u:ident| $prepare:expr, |$user:ident, $ids:ident| $act:expr) => {
        row!($name, |_| {}, |$u| $prepare, |$user, $ids| $act)
    };
    ($name:literal, $adjust:expr, |$u:ident| $prepare:expr, |$user:ident, $ids:ident| $act:expr) => {
        row!($name, $adjust, |$u, _hand| $prepare, |$user, $ids, _hand| $act)
    };
    ($name:literal, |$u:ident, $h:ident| $prepare:expr, |$user:ident, $ids:ident, $hand:ident| $act:expr) => {
        row!($name, |_| {}, |$u, $h| $prepare, |$user, $ids, $hand| $act)
    };
    ($name:literal, $adjust:expr, |$u:ident, $h:ident| $prepare:expr,
     |$user:ident, $ids:ident, $hand:ident| $act:expr) => {
        Row {
            name: $name,
            adjust: $adjust,
            prepare: |$u, $h| Box::pin(async move { $prepare }),
            act: |$user, $ids, $hand| Box::pin(async move { $act }),
            is_failed: true,
            rests: true,
            own_store: false,
        }
    };
}

mod builds;
mod gone;
mod moves;
mod power;
mod renamed;
mod slow;
mod steps;
mod stores;
mod volumes;

/// All of them.
pub fn rows() -> Vec<Row> {
    let groups = [
        builds::ROWS,
        power::ROWS,
        volumes::ROWS,
        moves::ROWS,
        slow::ROWS,
        gone::ROWS,
        renamed::ROWS,
        stores::ROWS,
    ];
    groups.concat()
}
