//! Sets of candidates, a bit for each.

/// Candidates in one word.
pub(super) const WORD: usize = 64;
/// Words in one block.
pub(super) const WORDS: usize = 8;
/// Candidates in one block: those that go through all rules before the next ones do, few enough to stay in the processor's
/// cache.
pub(super) const BLOCK: usize = WORD * WORDS;

/// A set of candidates.
#[derive(Debug, Clone, Default)]
pub struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// Takes in all of `len`, or none.
    pub fn reset(&mut self, len: usize, all: bool) {
        self.words.clear();
        self.words.resize(len.div_ceil(WORD), if all { u64::MAX } else { 0 });
        if all && !len.is_multiple_of(WORD) {
            let last = self.words.len() - 1;
            self.words[last] = (1 << (len % WORD)) - 1;
        }
    }

    /// Takes one in, or out.
    pub fn set(&mut self, place: usize, is_in: bool) {
        let bit = 1 << (place % WORD);
        if place / WORD >= self.words.len() {
            self.words.resize(place / WORD + 1, 0);
        }
        let word = &mut self.words[place / WORD];
        *word = if is_in { *word | bit } else { *word & !bit };
    }

    /// Whether one is in.
    #[must_use]
    pub fn has(&self, place: usize) -> bool {
        self.words.get(place / WORD).is_some_and(|word| word >> (place % WORD) & 1 == 1)
    }

    /// How many are in.
    #[must_use]
    pub fn count(&self) -> usize {
        // Most words of most sets are empty, and counting is not one instruction everywhere.
        self.words.iter().filter(|word| **word != 0).map(|word| word.count_ones() as usize).sum()
    }

    /// Those that are in, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        members(0, &self.words)
    }

    /// Block after block.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (usize, &[u64])> {
        self.words.chunks(WORDS).enumerate()
    }

    /// Block after block, to change it.
    pub(super) fn blocks_mut(&mut self) -> impl Iterator<Item = Block<'_>> {
        self.words.chunks_mut(WORDS).enumerate().map(|(n, left)| Block { first: n * BLOCK, left })
    }

    /// Takes in those of a block that are in `before` and not in `after`.
    pub(super) fn add_difference(&mut self, first: usize, before: &[u64], after: &[u64]) {
        for (word, (before, after)) in self.words[first / WORD..].iter_mut().zip(before.iter().zip(after)) {
            *word |= before & !after;
        }
    }
}

/// The candidates of a block that are left.
#[derive(Debug)]
pub struct Block<'a> {
    first: usize,
    left: &'a mut [u64],
}

impl Block<'_> {
    /// Keeps those of which `passes` says so. It is asked of each that is left.
    pub fn keep(&mut self, mut passes: impl FnMut(usize) -> bool) {
        for (n, word) in self.left.iter_mut().enumerate() {
            for bit in bits(*word) {
                if !passes(self.first + n * WORD + bit) {
                    *word &= !(1 << bit);
                }
            }
        }
    }

    /// Keeps those whose figure passes. It is asked of all: `passes` should be a comparison.
    pub fn keep_figures<T: Copy>(&mut self, column: &[T], passes: impl Fn(T) -> bool) {
        for (word, figures) in self.left.iter_mut().zip(column[self.first..].chunks(WORD)) {
            if *word != 0 {
                *word &= mask(figures, &passes);
            }
        }
    }

    /// Keeps those that are in a set.
    pub fn keep_members(&mut self, set: &Bitmap) {
        for (word, members) in self.left.iter_mut().zip(&set.words[self.first / WORD..]) {
            *word &= members;
        }
    }

    /// Those that are left.
    pub fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        members(self.first, self.left)
    }

    pub(super) fn first(&self) -> usize {
        self.first
    }

    pub(super) fn words(&self) -> &[u64] {
        self.left
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.iter().all(|word| *word == 0)
    }
}

/// A figure for each candidate of a block: all ones for those that are left, 0 for the others.
pub(super) fn lanes(left: &[u64]) -> [i32; BLOCK] {
    let mut lanes = [0; BLOCK];
    for (word, lanes) in left.iter().zip(lanes.chunks_mut(WORD)) {
        for (bit, lane) in lanes.iter_mut().enumerate() {
            *lane = -((word >> bit & 1) as i32);
        }
    }
    lanes
}

/// The members of the words that begin with candidate `first`.
pub(super) fn members(first: usize, words: &[u64]) -> impl Iterator<Item = usize> + '_ {
    words.iter().enumerate().flat_map(move |(n, word)| bits(*word).map(move |bit| first + n * WORD + bit))
}

fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (bit < WORD).then_some(bit)
    })
}

/// A bit for each of up to 64 figures. Written so that the comparisons are done several at once: first a byte for each, then
/// eight bytes to eight bits by one multiplication.
fn mask<T: Copy>(figures: &[T], passes: impl Fn(T) -> bool) -> u64 {
    let mut bytes = [0_u8; WORD];
    for (byte, figure) in bytes.iter_mut().zip(figures) {
        *byte = u8::from(passes(*figure));
    }
    let (eights, _) = bytes.as_chunks::<8>();
    eights.iter().enumerate().fold(0, |mask, (n, eight)| {
        let eight = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask | eight << (8 * n)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_way_to_keep_keeps_the_same(figures in proptest::collection::vec(0_i32..10, 0..1500), least in 0_i32..10) {
            let keep = |how: &dyn Fn(&mut Block<'_>)| {
                let mut set = Bitmap::default();
                set.reset(figures.len(), true);
                set.blocks_mut().for_each(|mut block| how(&mut block));
                set
            };
            let wanted: Vec<usize> = (0..figures.len()).filter(|n| figures[*n] >= least).collect();
            let mut marked = Bitmap::default();
            marked.reset(figures.len(), false);
            wanted.iter().for_each(|n| marked.set(*n, true));
            for how in [
                &(|block: &mut Block<'_>| block.keep(|n| figures[n] >= least)) as &dyn Fn(&mut Block<'_>),
                &|block| block.keep_figures(&figures, |figure| figure >= least),
                &|block| block.keep_members(&marked),
            ] {
                let set = keep(how);
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), wanted.clone());
                prop_assert_eq!(set.count(), wanted.len());
            }
            for (n, words) in marked.blocks() {
                let lanes = lanes(words);
                prop_assert!((0..BLOCK).all(|lane| (lanes[lane] == -1) == marked.has(n * BLOCK + lane)));
            }
        }
    }

    #[test]
    fn a_set_grows_with_its_members_and_tells_what_left_a_block() {
        let mut set = Bitmap::default();
        set.set(600, true);
        assert_eq!((set.iter().collect::<Vec<_>>(), set.has(600), set.has(6000)), (vec![600], true, false));
        set.set(600, false);
        set.add_difference(512, &[0, 0b111], &[0, 0b101]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [512 + 65]);
    }
}
