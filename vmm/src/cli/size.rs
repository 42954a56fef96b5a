//! Sizes on the command line: `64M`, `2G`.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// A number of bytes, more than none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Size(NonZeroU64);

/// Why a text is no size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum SizeError {
    #[error("a size is a number with K, M, G or T behind it, such as 512M")]
    Syntax,
    #[error("no machine has that much memory")]
    TooLarge,
    #[error("a program cannot run in no memory at all")]
    Zero,
}

impl Size {
    /// In bytes.
    pub(super) fn bytes(self) -> u64 {
        self.0.get()
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            "P" | "PB" | "PIB" => 50,
            "E" | "EB" | "EIB" => 60,
            _ => return Err(SizeError::Syntax),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(SizeError::Syntax);
        }
        let number: u64 = digits.parse().map_err(|_| SizeError::TooLarge)?;
        let bytes = number.checked_mul(1 << shift).ok_or(SizeError::TooLarge)?;
        NonZeroU64::new(bytes).map(Size).ok_or(SizeError::Zero)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes();
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if bytes >= 1 << shift && bytes.trailing_zeros() >= shift - 4 {
                #[allow(clippy::cast_precision_loss, reason = "for a person to read")]
                return write!(f, "{} {unit}", bytes as f64 / (1u64 << shift) as f64);
            }
        }
        write!(f, "{bytes} bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!("1".parse::<Size>().map(Size::bytes), Ok(1));
        assert_eq!("64k".parse::<Size>().map(Size::bytes), Ok(65536));
        assert_eq!("3M".parse::<Size>().map(Size::bytes), Ok(3 << 20));
        assert_eq!("2GiB".parse::<Size>().map(Size::bytes), Ok(2 << 30));
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        assert_eq!("0".parse::<Size>(), Err(SizeError::Zero));
        assert_eq!("0G".parse::<Size>(), Err(SizeError::Zero));
        assert_eq!("99999999E".parse::<Size>(), Err(SizeError::TooLarge));
        assert_eq!("99999999999999999999".parse::<Size>(), Err(SizeError::TooLarge));
        for text in ["", "M", "1.5G", "-1", "1X", "1 G", "G1"] {
            assert_eq!(text.parse::<Size>(), Err(SizeError::Syntax), "{text}");
        }
    }
}
