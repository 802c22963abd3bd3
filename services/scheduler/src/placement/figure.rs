//! One resource of a host: how much there is, and how much of it may still be promised.

/// One resource of a host.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figure {
    /// What there is.
    pub total: u32,
    /// What may be promised: total × ratio − reserved.
    pub capacity: u32,
    /// What the host says is claimed.
    pub used: u32,
    /// What was promised and is not in `used` yet.
    pub held: u32,
    /// Promised per physical unit.
    pub ratio: f32,
}

impl Figure {
    /// A ratio that is not set, or is no number above 0, takes the default.
    #[must_use]
    pub fn new(total: u32, used: u32, reserved: u32, ratio: f64, default_ratio: f64) -> Self {
        let ratio = if ratio.is_finite() && ratio > 0.0 { ratio } else { default_ratio };
        let capacity = (f64::from(total) * ratio).floor() as u32;
        Self { total, capacity: capacity.saturating_sub(reserved), used, held: 0, ratio: ratio as f32 }
    }

    /// What may still be promised; below 0 when too much was.
    #[must_use]
    pub fn free(&self) -> i64 {
        i64::from(self.capacity) - i64::from(self.used) - i64::from(self.held)
    }

    /// What one instance could get: what is free, and no more than there is, for it cannot overcommit against itself.
    #[must_use]
    pub fn room(&self) -> i64 {
        self.free().min(i64::from(self.total))
    }

    /// Whether a demand fits.
    #[must_use]
    pub fn fits(&self, demand: u32) -> bool {
        i64::from(demand) <= self.room()
    }

    pub(super) fn hold(&mut self, amount: u32) {
        self.held = self.held.saturating_add(amount);
    }

    pub(super) fn release(&mut self, amount: u32) {
        self.held = self.held.saturating_sub(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_is_total_times_ratio_less_what_is_reserved() {
        let ram = Figure::new(65_536, 1024, 512, 1.5, 1.0);
        assert_eq!(ram.capacity, 97_792);
        assert_eq!(ram.free(), 96_768);
        assert!(ram.fits(65_536));
        assert!(!ram.fits(65_537), "an instance cannot overcommit against itself");
        assert_eq!(Figure::new(8, 0, 0, 0.0, 4.0).capacity, 32, "a ratio that is not set takes the default");
        assert_eq!(Figure::new(8, 0, 0, f64::NAN, 4.0).capacity, 32);
        assert_eq!(Figure::new(100, 90, 50, 1.0, 1.0).free(), -40);
    }
}
