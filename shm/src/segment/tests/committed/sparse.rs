//! Images as files: the number of bytes, then runs of words that are not all zero.
//!
//! ```text
//! bytes of the image u64, then for each run: first word u32, words u32, the words
//! ```

const WORD: usize = 8;
/// Zeros within a run that cost less than another run.
const GAP: usize = 1;

/// Packs an image whose bytes are a multiple of 8.
pub(super) fn pack(image: &[u8]) -> Vec<u8> {
    let (words, _) = image.as_chunks::<WORD>();
    let mut packed = (image.len() as u64).to_le_bytes().to_vec();
    let is_set = |at: usize| words.get(at).is_some_and(|word| *word != [0; WORD]);
    let mut at = 0;
    while at < words.len() {
        if !is_set(at) {
            at += 1;
            continue;
        }
        let mut end = at + 1;
        while is_set(end) || (0..=GAP).any(|zeros| is_set(end + zeros)) {
            end += 1;
        }
        for number in [at, end - at] {
            packed.extend_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
        }
        packed.extend(words[at..end].iter().flatten());
        at = end;
    }
    packed
}

/// Unpacks; `None` if it is none.
pub(super) fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let (bytes, mut rest) = packed.split_first_chunk::<WORD>()?;
    let mut image = vec![0; usize::try_from(u64::from_le_bytes(*bytes)).ok()?];
    while let Some((first, behind)) = rest.split_first_chunk::<4>() {
        let (count, behind) = behind.split_first_chunk::<4>()?;
        let at = u32::from_le_bytes(*first) as usize * WORD;
        let len = u32::from_le_bytes(*count) as usize * WORD;
        let (words, behind) = behind.split_at_checked(len)?;
        image.get_mut(at..at + len)?.copy_from_slice(words);
        rest = behind;
    }
    rest.is_empty().then_some(image)
}
