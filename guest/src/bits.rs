//! Flag words. The crate `bitflags` would do, but a workspace build gives it its `std` feature, and a
//! payload has no std.

/// Declares a flag word with named bits.
macro_rules! flag_word {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$bit_doc:meta])* const $bit:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name(u64);

        impl $name {
            $($(#[$bit_doc])* pub const $bit: Self = Self($value);)*

            /// No bit.
            #[must_use]
            pub const fn empty() -> Self {
                Self(0)
            }

            /// The word.
            #[must_use]
            pub const fn bits(self) -> u64 {
                self.0
            }

            /// The word with these bits, known or not.
            #[must_use]
            pub const fn from_bits_retain(bits: u64) -> Self {
                Self(bits)
            }

            /// The bits of both.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// Whether all bits of `other` are set.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether no bit is set.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }
        }

        impl core::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                self.union(other)
            }
        }

        impl core::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: Self) {
                *self = self.union(other);
            }
        }
    };
}

pub(crate) use flag_word;
