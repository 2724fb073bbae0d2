//! Where a value is counted: the arithmetic of an `HdrHistogram` of u64 from 1 to 2^47 - 1 with 2 significant digits.
//!
//! 40 buckets of 256 sub-buckets each, whose lower halves, but for the first, are the bucket before: 41 x 128 counts.
//!
//! Tested at the end of this file and, against the crate, in `tools/shm-inspect`.

/// Highest value that is told apart from higher ones: 39 hours in ns.
pub const HIGHEST_NS: u64 = (1 << HIGHEST_BITS) - 1;
/// Significant decimal digits of a value.
pub const SIGNIFICANT_DIGITS: u8 = 2;
/// Counts of one histogram.
pub const COUNTS: usize = (BUCKETS + 1) << HALF_BITS;

/// Bits of [`HIGHEST_NS`].
pub(super) const HIGHEST_BITS: u32 = 47;
/// Bits of half of the 256 sub-buckets, the least power of two at or above 2 x 10^2.
const HALF_BITS: u32 = 7;
const SUB_BUCKETS: u64 = 2 << HALF_BITS;
const BUCKETS: usize = (HIGHEST_BITS - HALF_BITS) as usize;

const _: () = assert!(COUNTS == 5_248);

/// Where a value is counted, at most [`HIGHEST_NS`].
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "a sub-bucket is below 256")]
pub(super) const fn place(value: u64) -> usize {
    let value = if value > HIGHEST_NS {
        HIGHEST_NS
    } else {
        value
    };
    // The bucket in which the value has a sub-bucket: 0 below 256, then one for each doubling.
    let bucket = u64::BITS - 1 - HALF_BITS - (value | (SUB_BUCKETS - 1)).leading_zeros();
    // INVARIANT: below 256 by the choice of the bucket, so the sum is below `COUNTS`.
    let sub_bucket = (value >> bucket) as usize;
    ((bucket as usize) << HALF_BITS) + sub_bucket
}

/// The least value that is counted at a place.
#[must_use]
pub const fn least_at(place: usize) -> u64 {
    let bucket = (place >> HALF_BITS).saturating_sub(1);
    let sub_bucket = place - (bucket << HALF_BITS);
    (sub_bucket as u64) << bucket
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_the_place_of_its_neighbours_to_two_digits() {
        assert_eq!((place(0), place(1), place(255)), (0, 1, 255));
        assert_eq!((place(256), place(257), place(258)), (256, 256, 257));
        assert_eq!((place(511), place(512)), (383, 384));
        assert_eq!(place(HIGHEST_NS), COUNTS - 1);
        assert_eq!(place(u64::MAX), COUNTS - 1);
    }

    #[test]
    fn places_rise_with_the_values_and_leave_none_out() {
        let mut last = 0;
        for bits in 0..=HIGHEST_BITS {
            for offset in 0..512.min(1_u64 << bits) {
                let value = (1_u64 << bits) + (offset << bits.saturating_sub(9));
                let place = place(value);
                assert!(place < COUNTS, "{value}");
                assert!(
                    place == last || place == last + 1,
                    "{value}: {last}, {place}"
                );
                last = place;
            }
        }
        assert_eq!(last, COUNTS - 1);
    }

    #[test]
    fn least_value_of_each_place_is_counted_there_and_the_one_below_it_before() {
        for at in 0..COUNTS {
            let least = least_at(at);
            assert_eq!(place(least), at);
            assert!(at == 0 || place(least - 1) == at - 1, "{at}");
        }
    }
}
