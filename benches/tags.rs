//! The compare of a line's nine tags: the loop of `src/index/line.rs` beside other forms of it.
//!
//! Each probe picks its line by the answer before, as a lookup waits for its line: 256 lines stay
//! in the first level, 123,457 are the index of a million keys, 4 million are in no cache. A hit
//! looks for a tag that the line has, a miss for one that it has not.

mod common;

use std::hint::black_box;

use common::{is_measured, mix};
use criterion::{Criterion, Throughput};

const SLOTS: usize = 9;

/// Laid out as `Line` is.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line {
    lo: [u32; SLOTS],
    tags: [u16; SLOTS],
    hi: [u8; SLOTS],
    spill: u8,
}

const _: () = assert!(size_of::<Line>() == 64);

/// One form: the slots with a tag, as bits.
type Matches = fn(&Line, u16) -> u32;

const FORMS: [(&str, Matches); 4] =
    [("loop", by_loop), ("lanes", by_lanes), ("swar", by_swar), ("sse2", by_sse2)];

fn main() {
    let sizes: &[usize] = if is_measured() { &[256, 123_457, 4 << 20] } else { &[256] };
    let mut criterion = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    for &count in sizes {
        let lines: Vec<Line> = (0..count as u64).map(line).collect();
        let mut group = criterion.benchmark_group("tags");
        group.throughput(Throughput::Elements(1));
        for probe in ["hit", "miss"] {
            let tags: Vec<u16> = (0..4096).map(|nth| tag(nth, probe)).collect();
            for (name, matches) in FORMS {
                check(&lines, matches);
                let id = format!("form={name} lines={count} probe={probe}");
                // Monomorphic: each form is inlined, as it is in the index.
                let mut chain = Chain { lines: &lines, tags: &tags, at: 0, nth: 0 };
                match name {
                    "loop" => group.bench_function(id, |b| b.iter(|| chain.probe(by_loop))),
                    "lanes" => group.bench_function(id, |b| b.iter(|| chain.probe(by_lanes))),
                    "swar" => group.bench_function(id, |b| b.iter(|| chain.probe(by_swar))),
                    _ => group.bench_function(id, |b| b.iter(|| chain.probe(by_sse2))),
                };
            }
        }
        group.finish();
    }
    criterion.final_summary();
}

/// The tags of a line are those of eight slots of all lines, and one of its own, so that the tag of
/// a hit is known without a look at the line: its place is not.
fn line(number: u64) -> Line {
    let random = mix(number);
    let turn = usize::try_from(random % SLOTS as u64).expect("below nine");
    let mut tags = [0; SLOTS];
    for (slot, tag) in (0u16..).zip(&mut tags) {
        *tag = 2 * slot + 2;
    }
    tags.rotate_left(turn);
    Line { lo: [1; SLOTS], tags, hi: [0; SLOTS], spill: 0 }
}

fn tag(nth: u64, probe: &str) -> u16 {
    let slot = u16::try_from(mix(nth) % SLOTS as u64).expect("below nine");
    2 * slot + if probe == "hit" { 2 } else { 102 }
}

struct Chain<'a> {
    lines: &'a [Line],
    tags: &'a [u16],
    at: u64,
    nth: usize,
}

impl Chain<'_> {
    #[inline(always)]
    fn probe(&mut self, matches: impl Fn(&Line, u16) -> u32) -> u32 {
        self.nth = (self.nth + 1) % self.tags.len();
        let tag = black_box(self.tags[self.nth]);
        let line = ((self.at >> 32) * self.lines.len() as u64) >> 32;
        let line = &self.lines[usize::try_from(line).expect("below the number of lines")];
        let bits = matches(line, tag);
        // What a lookup does with it: the place of the first match, or the flags.
        let found = match bits {
            0 => u64::from(line.spill & (1 << (tag & 7))),
            _ => u64::from(line.lo[bits.trailing_zeros() as usize]),
        };
        self.at = mix(self.at ^ found);
        bits
    }
}

/// Every form agrees with the loop, on every slot.
fn check(lines: &[Line], matches: Matches) {
    for line in &lines[..256] {
        for tag in line.tags.into_iter().chain([0, 1, 0x8000, u16::MAX]) {
            let mut expected = 0;
            (0..SLOTS).for_each(|slot| expected |= u32::from(line.tags[slot] == tag) << slot);
            assert_eq!(matches(line, tag), expected);
        }
    }
}

/// As `src/index/line.rs` has it.
#[inline(always)]
fn by_loop(line: &Line, tag: u16) -> u32 {
    let mut bits = 0;
    for (slot, &other) in line.tags.iter().enumerate() {
        bits |= u32::from(other == tag) << slot;
    }
    bits
}

/// Lanes of 16 bits that keep their own bit, then a sum: a shape that compilers turn into vectors.
#[inline(always)]
fn by_lanes(line: &Line, tag: u16) -> u32 {
    const BITS: [u16; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
    let mut lanes = [0u16; 8];
    for slot in 0..8 {
        lanes[slot] = if line.tags[slot] == tag { BITS[slot] } else { 0 };
    }
    u32::from(lanes.iter().fold(0, |all, lane| all | lane)) | (u32::from(line.tags[8] == tag) << 8)
}

/// Four tags in a word, twice, and the ninth.
#[inline(always)]
fn by_swar(line: &Line, tag: u16) -> u32 {
    const LOW: u64 = 0x7fff_7fff_7fff_7fff;
    const EACH: u64 = 0x0001_0001_0001_0001;
    // Bit 16 i, moved to bit 48 + i; the other products fall outside the upper four bits.
    const GATHER: u64 = (1 << 48) | (1 << 33) | (1 << 18) | (1 << 3);
    let half = |from: usize| {
        let word = (0..4).fold(0, |word, at| word | (u64::from(line.tags[from + at]) << (16 * at)));
        let other = word ^ (EACH * u64::from(tag));
        // The upper bit of a lane is set where nothing of it is: exactly, without a carry.
        let zero = !(((other & LOW) + LOW) | other) & !LOW;
        u32::try_from(((zero >> 15).wrapping_mul(GATHER) >> 48) & 15).expect("four bits")
    };
    half(0) | (half(4) << 4) | (u32::from(line.tags[8] == tag) << 8)
}

/// Eight tags in a vector, and the ninth.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "SSE2 is part of the architecture")]
fn by_sse2(line: &Line, tag: u16) -> u32 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16,
        _mm_set1_epi16, _mm_setzero_si128,
    };
    #[inline]
    #[target_feature(enable = "sse2")]
    fn equal(tags: __m128i, tag: u16) -> i32 {
        let equal = _mm_cmpeq_epi16(tags, _mm_set1_epi16(tag.cast_signed()));
        _mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128()))
    }
    // SAFETY: 16 bytes from the first tag lie within the line, at any alignment.
    let tags = unsafe { _mm_loadu_si128(line.tags.as_ptr().cast()) };
    // SAFETY: every x86-64 processor has SSE2.
    let mask = unsafe { equal(tags, tag) };
    mask.cast_unsigned() | (u32::from(line.tags[8] == tag) << 8)
}

#[cfg(not(target_arch = "x86_64"))]
fn by_sse2(line: &Line, tag: u16) -> u32 {
    by_loop(line, tag)
}
