//! How long calls took: counts by size, each size at most 1/32 wide of what it counts.

use std::time::Duration;

/// Every power of two is cut into so many parts.
const PARTS: u64 = 32;
const PART_BITS: u32 = PARTS.ilog2();
/// Below, every nanosecond has its own count.
const EXACT: u64 = 2 * PARTS;
const COUNTS: usize = 64 * 32;

#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    max: u64,
}

impl Histogram {
    pub(crate) fn new() -> Histogram {
        Histogram { counts: vec![0; COUNTS], max: 0 }
    }

    pub(crate) fn add(&mut self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts[place(ns)] += 1;
        self.max = self.max.max(ns);
    }

    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
        self.max = self.max.max(other.max);
    }

    fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What so many of a million took at most.
    pub(crate) fn quantile(&self, of_million: u64) -> Duration {
        let wanted = (self.total() * of_million).div_ceil(1_000_000).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(highest(at).min(self.max));
            }
        }
        Duration::from_nanos(self.max)
    }

    pub(crate) fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// A bar for every power of two between the shortest and the longest.
    pub(crate) fn bars(&self) -> Vec<String> {
        const WIDTH: u64 = 48;
        let mut powers = [0_u64; 64];
        for (at, count) in self.counts.iter().enumerate() {
            powers[highest(at).max(1).ilog2() as usize] += count;
        }
        let (total, most) = (self.total().max(1), powers.iter().copied().max().unwrap_or(0).max(1));
        let first = powers.iter().position(|count| *count > 0).unwrap_or(0);
        let last = powers.iter().rposition(|count| *count > 0).unwrap_or(0);
        let bars = powers.iter().enumerate().take(last + 1).skip(first).map(|(power, count)| {
            let limit =
                Duration::from_nanos(2_u64.saturating_pow(u32::try_from(power).unwrap_or(63) + 1));
            let length = usize::try_from((count * WIDTH).div_ceil(most)).unwrap_or(0);
            let tenths = count * 1000 / total;
            let share = format!("{:>3}.{} %", tenths / 10, tenths % 10);
            format!("< {:>7} {share} {}", crate::time::latency(limit), "#".repeat(length))
        });
        bars.collect()
    }
}

fn place(ns: u64) -> usize {
    if ns < EXACT {
        return usize::try_from(ns).expect("below 64");
    }
    let shift = ns.ilog2() - PART_BITS;
    let place = u64::from(shift) * PARTS + (ns >> shift);
    usize::try_from(place).expect("below the number of counts")
}

/// The highest number of a place.
fn highest(place: usize) -> u64 {
    let place = place as u64;
    if place < EXACT {
        return place;
    }
    let shift = place / PARTS - 1;
    let lowest = (place - shift * PARTS) << shift;
    lowest + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_counted_within_one_part_in_32_of_itself() {
        let mut ns = 0;
        while ns < u64::MAX / 3 {
            let top = highest(place(ns));
            assert!(top >= ns && top - ns <= ns / PARTS, "{ns}: {top}");
            ns += 1 + ns / 7;
        }
        assert_eq!(highest(place(u64::MAX)), u64::MAX);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_numbers() {
        let mut histogram = Histogram::new();
        for us in 1..=1000 {
            histogram.add(Duration::from_micros(us));
        }
        for (of_million, us) in [(500_000, 500), (990_000, 990), (1_000_000, 1000)] {
            let found = histogram.quantile(of_million).as_micros();
            assert!((us..=us + us / 32 + 1).contains(&found), "{us}: {found}");
        }
        assert_eq!(histogram.max(), Duration::from_micros(1000));
        let shares = histogram.bars().join("\n");
        assert!(shares.ends_with(&"#".repeat(48)) && shares.contains("< 1.05 ms"), "{shares}");
    }
}
