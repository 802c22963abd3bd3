//! How generations grow.
//!
//! A generation orders the commands for one resource, and its agent does the command of one generation once. In a store that was
//! put back to an earlier copy, the next change of a record would get a generation that an agent has seen already, for a change that the
//! store has lost, and the agent would answer the one with the other's outcome. So the step is drawn: the two are equal in one case
//! in four billion. A command of the other number is taken as newer, or refused as older, and then the generations go on after it
//! (`engine/behind.rs`).

/// The number of steps to draw from. 2^64 has room for 2^33 changes of one resource on average.
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
