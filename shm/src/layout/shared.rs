//! What may lie in the segment: structs of atomic words with every offset written down and checked.
//!
//! Invariants:
//! - I1: a shared struct is `repr(C)`, made of [`AtomicU64`] only, without padding; every bit pattern is legal, and all
//!   zeros means empty.
//! - I2: the offsets in the struct's source are those of the compiler, or the crate does not compile.
//!
//! Under loom an atomic is no word: there the structs are models' own, without offsets, and lie in no segment.
//!
//! Tested by the compile-time assertions of each struct and in `shm/tests/memory_document.rs`.

#[cfg(not(loom))]
use crate::sync::AtomicU64;

#[cfg(not(loom))]
/// One field of a shared struct, for the layout hash and for listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The field's name in the source.
    pub name: &'static str,
    /// Bytes from the struct's start.
    pub offset: usize,
    /// Bytes it takes.
    pub bytes: usize,
}

#[cfg(not(loom))]
/// A struct that lies in the segment.
///
/// # Safety
/// The type is `repr(C)` and consists of [`AtomicU64`] only, so that there is no padding, every bit pattern is a value,
/// and other processes may write it at any time.
#[expect(
    unsafe_code,
    reason = "implementing it is a claim that a compiler cannot check"
)]
pub unsafe trait SharedLayout: Sized + Sync {
    /// The struct's name in listings.
    const NAME: &'static str;
    /// All fields, in order.
    const FIELDS: &'static [Field];
}

/// Writes a shared struct: `offset => name: type` for each field, the size and the alignment; asserts all of them.
macro_rules! shared_layout {
    (
        $(#[$doc:meta])*
        $vis:vis struct $name:ident: $size:literal bytes, align $align:literal {
            $( $(#[$field_doc:meta])* $offset:literal => $field:ident: $kind:ty, )*
        }
    ) => {
        $(#[$doc])*
        #[repr(C, align($align))]
        $vis struct $name {
            $( $(#[$field_doc])* pub(crate) $field: $kind, )*
        }

        #[cfg(not(loom))]
        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!(align_of::<$name>() == $align);
            $( assert!(core::mem::offset_of!($name, $field) == $offset); )*
            assert!(0 $( + size_of::<$kind>() )* == $size, "padding");
        };

        #[cfg(not(loom))]
        #[expect(unsafe_code, reason = "the macro asserts what the trait asks for")]
        // SAFETY: repr(C) by the macro; the fields are AtomicU64 or arrays of them, which the constant
        // below proves by naming their words; the sizes add up to the whole, so there is no padding.
        unsafe impl $crate::layout::SharedLayout for $name {
            const NAME: &'static str = stringify!($name);
            const FIELDS: &'static [$crate::layout::Field] = &[
                $( $crate::layout::Field {
                    name: stringify!($field),
                    offset: $offset,
                    bytes: size_of::<$kind>(),
                }, )*
            ];
        }

        #[cfg(not(loom))]
        const _: fn(&$name) = |shared| {
            $( let _: &[$crate::sync::AtomicU64] = $crate::layout::AsWords::as_words(&shared.$field); )*
        };

        #[cfg(loom)]
        impl $name {
            /// All zeros, in memory of a model.
            #[must_use]
            pub fn zeroed() -> Self {
                Self { $( $field: <$kind as Default>::default(), )* }
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}
pub(crate) use shared_layout;

#[cfg(not(loom))]
/// A field of a shared struct as words: only [`AtomicU64`] and arrays of it have this.
pub(crate) trait AsWords {
    /// The words of the field.
    fn as_words(&self) -> &[AtomicU64];
}

#[cfg(not(loom))]
impl AsWords for AtomicU64 {
    fn as_words(&self) -> &[AtomicU64] {
        core::slice::from_ref(self)
    }
}

#[cfg(not(loom))]
impl<const N: usize> AsWords for [AtomicU64; N] {
    fn as_words(&self) -> &[AtomicU64] {
        self
    }
}
