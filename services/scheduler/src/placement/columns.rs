//! The figures that every decision looks at, as one dense column each beside the rows. Derived from the rows whenever these
//! change, and never changed otherwise: a row says the same as its place in every column.

use super::bitmap::Bitmap;
use super::figure::Figure;
use super::space::Row;
use super::vocabulary::{AggregatesId, Symbol};

/// The columns of one world.
#[derive(Debug)]
pub struct Columns<R: Row> {
    /// Those that are up and enabled.
    pub serving: Bitmap,
    /// The availability zones.
    pub zones: Vec<Symbol>,
    /// The aggregates they are in.
    pub aggregates: Vec<AggregatesId>,
    /// What rows of this kind have besides.
    pub own: R::Columns,
}

/// The columns of one kind of row.
pub trait OwnColumns<R>: std::fmt::Debug + Default + Send + Sync + 'static {
    /// Enters a row at a place that there is, or at the next one.
    fn set(&mut self, place: usize, row: &R);

    /// Moves the last one to a place, or takes the last one out if it is that.
    fn swap_remove(&mut self, place: usize);
}

/// Rows that are looked at themselves.
impl<R> OwnColumns<R> for () {
    fn set(&mut self, _: usize, _: &R) {}

    fn swap_remove(&mut self, _: usize) {}
}

impl<R: Row> Default for Columns<R> {
    fn default() -> Self {
        Self {
            serving: Bitmap::default(),
            zones: Vec::new(),
            aggregates: Vec::new(),
            own: R::Columns::default(),
        }
    }
}

impl<R: Row> Columns<R> {
    pub(super) fn set(&mut self, place: usize, row: &R) {
        let head = row.head();
        self.serving.set(place, head.is_serving());
        put(&mut self.zones, place, head.zone);
        put(&mut self.aggregates, place, head.aggregates);
        self.own.set(place, row);
    }

    pub(super) fn swap_remove(&mut self, place: usize) {
        let last = self.zones.len() - 1;
        self.serving.set(place, self.serving.has(last));
        self.serving.set(last, false);
        self.zones.swap_remove(place);
        self.aggregates.swap_remove(place);
        self.own.swap_remove(place);
    }
}

/// One resource of every host.
#[derive(Debug, Default)]
pub struct FigureColumns {
    /// What one instance could get: what is free, and no more than there is.
    pub room: Vec<i32>,
    /// What may still be promised; below 0 when too much was.
    pub free: Vec<i32>,
}

impl FigureColumns {
    pub(super) fn set(&mut self, place: usize, figure: &Figure) {
        put(&mut self.room, place, clamped(figure.room()));
        put(&mut self.free, place, clamped(figure.free()));
    }

    pub(super) fn swap_remove(&mut self, place: usize) {
        self.room.swap_remove(place);
        self.free.swap_remove(place);
    }
}

/// A figure as columns hold it: those beyond 2^31 are all the same to them.
#[must_use]
pub fn clamped(figure: i64) -> i32 {
    i32::try_from(figure).unwrap_or(if figure > 0 { i32::MAX } else { i32::MIN })
}

/// Enters a figure at a place that there is, or at the next one.
pub(super) fn put<T>(column: &mut Vec<T>, place: usize, figure: T) {
    match column.get_mut(place) {
        Some(there) => *there = figure,
        None => column.push(figure),
    }
}
