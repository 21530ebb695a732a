//! How long calls took, as bars for whoever would rather look than read.

use std::time::Duration;

use hdrhistogram::Histogram;

/// What takes longer is counted as that.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Nanoseconds, to one part in a hundred of themselves.
pub(crate) fn new() -> Histogram<u64> {
    let highest = nanos(LONGEST);
    Histogram::new_with_max(highest, 2).expect("it knows an hour, and two digits")
}

fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn add(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.saturating_record(nanos(took));
}

/// A bar for every power of two between the shortest and the longest.
pub(crate) fn bars(histogram: &Histogram<u64>) -> Vec<String> {
    const WIDTH: u64 = 48;
    let power_of = |ns: u64| ns.max(1).ilog2();
    let powers: Vec<(u64, u64)> = (power_of(histogram.min())..=power_of(histogram.max()))
        .map(|power| {
            let (first, last) = (1 << power, u64::MAX >> (63 - power));
            // What took no time that the clock shows is in the first.
            let first = if power == 0 { 0 } else { first };
            (last, histogram.count_between(first, last))
        })
        .collect();
    let total = histogram.len().max(1);
    let most = powers.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let bar = |&(last, count): &(u64, u64)| {
        let limit = Duration::from_nanos(last.saturating_add(1));
        let length = usize::try_from((count * WIDTH).div_ceil(most)).unwrap_or(0);
        let tenths = count * 1000 / total;
        let share = format!("{:>3}.{} %", tenths / 10, tenths % 10);
        format!("< {:>7} {share} {}", crate::time::latency(limit), "#".repeat(length))
    };
    powers.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_in_the_bar_of_its_power_of_two_and_the_most_fill_a_line() {
        let mut histogram = new();
        for us in 1..=1000 {
            add(&mut histogram, Duration::from_micros(us));
        }
        let shown = bars(&histogram);
        assert_eq!(shown.len(), 11, "from 512 ns to 1.05 ms: {shown:#?}");
        assert!(shown[0].starts_with("< 1.02 us   0.1 % #"), "{shown:#?}");
        assert!(shown[10].contains("< 1.05 ms"), "{shown:#?}");
        assert!(shown[10].ends_with(&format!(" {}", "#".repeat(48))), "{shown:#?}");
        add(&mut histogram, Duration::ZERO);
        assert!(bars(&histogram)[0].starts_with("<    2 ns"), "{:#?}", bars(&histogram));
        assert_eq!(bars(&new()).len(), 1, "nothing was counted");
    }
}
