//! The power of two choices: of two members drawn at random, the one with fewer calls in flight.

/// Two different indexes below `len`, drawn by two samples from 0 to 1; twice the same if there is only one.
/// `len` must not be 0.
pub(crate) fn draw_two(len: usize, first: f64, second: f64) -> (usize, usize) {
    let scaled = |sample: f64, below: usize| ((sample * below as f64) as usize).min(below - 1);
    let a = scaled(first, len);
    if len == 1 {
        return (a, a);
    }
    let b = scaled(second, len - 1);
    (a, if b >= a { b + 1 } else { b })
}

/// Chooses among `len` members; `load` is `None` for one that must not be used. Falls back to a scan when both
/// drawn ones are unusable, and gives `None` only when all are.
pub(crate) fn choose(
    len: usize,
    first: f64,
    second: f64,
    load: impl Fn(usize) -> Option<usize>,
) -> Option<usize> {
    if len == 0 {
        return None;
    }
    let (a, b) = draw_two(len, first, second);
    match (load(a), load(b)) {
        (Some(x), Some(y)) => Some(if y < x { b } else { a }),
        (Some(_), None) => Some(a),
        (None, Some(_)) => Some(b),
        (None, None) => (0..len).filter_map(|i| load(i).map(|load| (load, i))).min().map(|(_, i)| i),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_differ_and_every_pair_can_come() {
        let mut pairs = std::collections::BTreeSet::new();
        for i in 0..40 {
            for j in 0..40 {
                pairs.insert(draw_two(4, f64::from(i) / 40.0, f64::from(j) / 40.0));
            }
        }
        assert!(pairs.iter().all(|(a, b)| a != b));
        assert_eq!(pairs.len(), 12);
        assert_eq!(draw_two(1, 0.9, 0.9), (0, 0));
        assert_eq!(draw_two(3, 1.0, 1.0), (2, 1));
    }

    #[test]
    fn the_less_loaded_wins_and_the_unusable_never() {
        let loads = [Some(5), Some(1), None];
        assert_eq!(choose(2, 0.0, 0.0, |i| loads[i]), Some(1));
        assert_eq!(choose(3, 0.99, 0.0, |i| loads[i]), Some(0));
        let one_left = [None, None, None, Some(9)];
        assert_eq!(choose(4, 0.0, 0.0, |i| one_left[i]), Some(3));
        assert_eq!(choose(3, 0.0, 0.0, |_| None), None);
        assert_eq!(choose(0, 0.0, 0.0, |_| Some(0)), None);
    }
}
