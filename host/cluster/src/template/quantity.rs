//! Kubernetes' quantities: `500m`, `4Gi`, `1.5e9`.

/// In billionths, rounded up as Kubernetes does. Pods may not have negative ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(u128);

const NANO: u128 = 1_000_000_000;

impl Quantity {
    /// `None`: the API server would refuse it.
    pub fn parse(text: &str) -> Option<Quantity> {
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        // Values that exceed any machine need not be exact.
        let digits = |text: &str| {
            text.bytes().fold(0u128, |value, b| value.saturating_mul(10).saturating_add(u128::from(b - b'0')))
        };
        let kept = &fraction[..fraction.len().min(18)];
        let kept_digits = u32::try_from(kept.len()).ok()?;
        let mantissa = digits(whole).saturating_mul(10u128.pow(kept_digits)).saturating_add(digits(kept));
        let (factor, divisor) = scale(suffix)?;
        let over = 10u128.pow(kept_digits).saturating_mul(divisor);
        Some(Quantity(mantissa.saturating_mul(factor).saturating_mul(NANO).div_ceil(over)))
    }

    pub fn mebibytes(count: u64) -> Quantity {
        Quantity((u128::from(count) << 20).saturating_mul(NANO))
    }
}

/// A suffix's factor and divisor.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, NANO),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (NANO, 1),
        "T" => (1_000 * NANO, 1),
        "P" => (1_000_000 * NANO, 1),
        "E" => (NANO * NANO, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10u128.pow(exponent.unsigned_abs().min(30));
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_kubernetes() {
        let parse = |text: &str| Quantity::parse(text).unwrap_or_else(|| panic!("{text}"));
        for (one, other) in [
            ("1", "1000m"),
            ("4Gi", "4096Mi"),
            ("1.5Gi", "1536Mi"),
            ("1.5e9", "1500M"),
            ("1E3", "1k"),
            ("1E", "1000P"),
            ("25e-2", "250m"),
            (".5", "500m"),
            ("5.", "5"),
            ("+1", "1"),
            ("0.1n", "1n"),
        ] {
            assert_eq!(parse(one), parse(other), "{one}");
        }
        assert!(parse("4506Mi") < parse("4.5Gi") && parse("4G") < parse("4Gi"));
        assert!(parse("9999999999999999999999Ei") > parse("1Ei"), "it does not overflow");
        assert_eq!(Quantity::mebibytes(2), parse("2Mi"));
        for wrong in
            ["", ".", "4GB", "4 Gi", "-1", "1.2.3", "Gi", "4gi", "1e", "1e2.5", "four", "0x1", "4KI", "١"]
        {
            assert_eq!(Quantity::parse(wrong), None, "{wrong}");
        }
    }
}
