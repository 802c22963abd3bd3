//! How generations grow.
//!
//! A generation orders the commands for one resource, and its agent does the command of one generation once. In a store that was
//! put back to an earlier copy, a record's next change gets a generation that an agent may have seen already, for a change that
//! the store has lost. The step is drawn, so that the two differ but for one case in [`STEPS`]: the later one of another number is
//! either taken as newer, or refused as older, after which the generations go on (`engine/behind.rs`).

/// How many steps there are. 2^31 changes of one resource are left room for.
const STEPS: u64 = 1 << 32;

/// Draws the next one.
pub fn grow(generation: &mut u64) {
    *generation = generation.saturating_add(rand::random_range(1..=STEPS));
}

#[cfg(test)]
mod tests {
    use super::grow;

    #[test]
    fn two_that_come_after_the_same_one_differ() {
        let (mut one, mut other) = (7, 7);
        grow(&mut one);
        grow(&mut other);
        assert!(one > 7 && other > 7 && one != other, "{one} {other}");
    }
}
