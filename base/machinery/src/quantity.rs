//! Resource quantities: `1`, `500m`, `1.5Gi`, `2e3`, held as a count of nano-units.
//!
//! Fractions below one nano round up, as upstream does ("if you want some resources, you should get some").

use std::cmp::Ordering;
use std::fmt;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySI,
    /// `12M`
    DecimalSI,
}

#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    pub format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Default for Quantity {
    fn default() -> Self {
        Self { nanos: 0, format: Format::DecimalSI }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The pieces of a quantity's text.
struct Pieces<'a> {
    negative: bool,
    num: &'a str,
    denom: &'a str,
    base: u32,
    exponent: i32,
    format: Format,
}

fn digits(s: &str) -> usize {
    s.bytes().take_while(u8::is_ascii_digit).count()
}

fn split(text: &str) -> Result<Pieces<'_>, ParseError> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        Some(_) => (false, text),
        None => return Err(ParseError::Format),
    };
    let (num, rest) = rest.split_at(digits(rest));
    let (denom, suffix) = match rest.strip_prefix('.') {
        Some(r) => r.split_at(digits(r)),
        None => ("", rest),
    };
    if num.is_empty() && denom.is_empty() {
        return Err(if suffix.is_empty() { ParseError::Numeric } else { ParseError::Format });
    }
    let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let (word, number) = suffix.split_at(letters);
    let signless = number.strip_prefix(['+', '-']).unwrap_or(number);
    if digits(signless) != signless.len() {
        return Err(ParseError::Format);
    }
    let (base, exponent, format) = suffix_of(word, number).ok_or(ParseError::Suffix)?;
    Ok(Pieces { negative, num, denom, base, exponent, format })
}

fn suffix_of(word: &str, number: &str) -> Option<(u32, i32, Format)> {
    if !number.is_empty() {
        if word != "e" && word != "E" {
            return None;
        }
        let exponent: i32 = number.parse().ok()?;
        return Some((10, exponent, Format::DecimalExponent));
    }
    let decimal = |e| Some((10, e, Format::DecimalSI));
    let binary = |e| Some((2, e, Format::BinarySI));
    match word {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => None,
    }
}

fn pow10(e: u32) -> i128 {
    10i128.checked_pow(e).unwrap_or(i128::MAX)
}

impl Quantity {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let p = split(text)?;
        let mut mantissa: i128 = 0;
        // Digits past what i128 holds saturate; trailing digits far below a nano round up.
        let mut scale = -(p.denom.len() as i64);
        let mut lost = false;
        // A binary suffix needs room to multiply by; a decimal one only moves the point.
        let room = if p.base == 2 { i128::MAX / (1 << 62) / 10 } else { i128::MAX / 10 };
        for d in p.num.bytes().chain(p.denom.bytes()) {
            match mantissa.checked_mul(10).and_then(|m| m.checked_add((d - b'0') as i128)) {
                Some(m) if m < room => mantissa = m,
                _ => {
                    lost |= d != b'0';
                    scale += 1;
                }
            }
        }
        if p.base == 2 {
            mantissa = mantissa.saturating_mul(1i128 << p.exponent);
        } else {
            scale += i64::from(p.exponent);
        }
        let shift = scale + 9;
        let mut nanos = if mantissa == 0 {
            0
        } else if shift >= 0 {
            mantissa.saturating_mul(pow10(shift.min(60) as u32))
        } else {
            let by = pow10((-shift).min(60) as u32);
            let whole = mantissa / by;
            whole + i128::from(mantissa % by != 0 || (lost && whole == 0))
        };
        // The largest there is: a round number, whose text reads back as itself.
        nanos = nanos.min(pow10(37));
        let mut format = p.format;
        if format == Format::BinarySI {
            nanos = nanos.min(MAX);
            if nanos > 0 && nanos < NANO {
                format = Format::DecimalSI;
            }
        }
        Ok(Quantity { nanos: if p.negative { -nanos } else { nanos }, format })
    }

    pub fn from_value(value: i64, format: Format) -> Self {
        Quantity { nanos: value as i128 * NANO, format }
    }

    pub fn from_milli(value: i64) -> Self {
        Quantity { nanos: value as i128 * (NANO / 1000), format: Format::DecimalSI }
    }

    /// Whole units, rounded up (away from zero).
    pub fn value(&self) -> i64 {
        self.scaled(NANO)
    }

    pub fn milli_value(&self) -> i64 {
        self.scaled(NANO / 1000)
    }

    fn scaled(&self, unit: i128) -> i64 {
        let mut v = self.nanos / unit;
        if self.nanos % unit != 0 {
            v += self.nanos.signum();
        }
        v.clamp(i64::MIN as i128, i64::MAX as i128) as i64
    }

    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    /// True when the quantity is a whole number of thousandths.
    pub fn is_milli_precise(&self) -> bool {
        self.nanos % (NANO / 1000) == 0
    }

    /// True when the quantity is a whole number.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// Rounds up to whole thousandths, as the API's resource lists are.
    pub fn round_up_milli(&mut self) {
        let unit = NANO / 1000;
        let rest = self.nanos % unit;
        if rest != 0 {
            self.nanos += if self.nanos > 0 { unit - rest } else { -(unit + rest) };
        }
    }

    pub fn add(&mut self, other: &Quantity) {
        if self.nanos == 0 {
            self.format = other.format;
        }
        self.nanos = self.nanos.saturating_add(other.nanos);
    }

    pub fn sub(&mut self, other: &Quantity) {
        if self.nanos == 0 {
            self.format = other.format;
        }
        self.nanos = self.nanos.saturating_sub(other.nanos);
    }

    pub fn neg(&mut self) {
        self.nanos = -self.nanos;
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no precision lost, no fraction, the largest suffix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let format = match self.format {
            Format::BinarySI if self.nanos.abs() < 1024 * NANO || !self.is_whole() => Format::DecimalSI,
            other => other,
        };
        if format == Format::BinarySI {
            let mut v = self.nanos / NANO;
            let mut step = 0;
            while v % 1024 == 0 && step < 6 {
                v /= 1024;
                step += 1;
            }
            return write!(f, "{v}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step]);
        }
        let mut v = self.nanos;
        let mut exponent: i32 = -9;
        while v % 1000 == 0 && exponent < 18 {
            v /= 1000;
            exponent += 3;
        }
        match format {
            Format::DecimalExponent if exponent == 0 => write!(f, "{v}"),
            Format::DecimalExponent => write!(f, "{v}e{exponent}"),
            _ => {
                let suffixes = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
                write!(f, "{v}{}", suffixes[((exponent + 9) / 3) as usize])
            }
        }
    }
}

/// The text upstream stores for a quantity a client wrote: canonical, except that a few already tidy spellings
/// are kept (`1.250`, `+1`), as upstream's fast path keeps them.
pub fn canonicalize(text: &str) -> Result<String, ParseError> {
    let quantity = Quantity::parse(text)?;
    let p = split(text)?;
    let num = p.num.trim_start_matches('0');
    let whole = if num.is_empty() { "0" } else { num };
    let shifted_len = whole.len() + p.denom.len();
    if p.format != Format::BinarySI && shifted_len <= 18 {
        let scale = p.exponent - p.denom.len() as i32;
        let ends_000 = format!("{whole}{}", p.denom).ends_with("000");
        if scale >= -9 && scale % 3 == 0 && !ends_000 && !whole.starts_with('0') {
            return Ok(text.to_string());
        }
    }
    Ok(quantity.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_forms() {
        for (given, want) in [
            ("0", "0"),
            ("0m", "0"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("0.1", "100m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1023", "1023"),
            ("0.5Mi", "512Ki"),
            ("1000", "1k"),
            ("1000k", "1M"),
            ("1e3", "1e3"),
            ("1000e3", "1e6"),
            ("12E", "12E"),
            ("-1.5", "-1500m"),
            ("100Ki", "100Ki"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1.25Ki", "1280"),
            ("123456789", "123456789"),
            ("1.250", "1.250"),
            ("010", "010"),
            ("100m", "100m"),
            ("16777216Ki", "16Gi"),
            (".5", "500m"),
        ] {
            assert_eq!(canonicalize(given).as_deref(), Ok(want), "{given}");
        }
        assert_eq!(canonicalize(""), Err(ParseError::Format));
        assert_eq!(canonicalize("1Zi"), Err(ParseError::Format));
        assert_eq!(canonicalize("1iK"), Err(ParseError::Suffix));
        assert_eq!(canonicalize("abc"), Err(ParseError::Format));
        assert_eq!(canonicalize("1 Gi"), Err(ParseError::Format));
    }

    #[test]
    fn values() {
        let q = |s| Quantity::parse(s).unwrap();
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("1500m").milli_value(), 1500);
        assert_eq!(q("1Gi").value(), 1 << 30);
        assert_eq!(q("-0.5").value(), -1);
        assert!(q("1") == q("1000m") && q("1Gi") > q("1G"));
        assert_eq!(q("999999999999999999999Ei").value(), i64::MAX);
        let mut sum = q("0");
        sum.add(&q("512Mi"));
        sum.add(&q("512Mi"));
        assert_eq!(sum.to_string(), "1Gi");
        sum.sub(&q("1Gi"));
        assert!(sum.is_zero());
    }

    proptest! {
        #[test]
        fn canonical_is_a_fixed_point_and_keeps_the_amount(
            n in -100_000i64..100_000, frac in "(|\\.[0-9]{1,4})", suffix in "(|m|k|M|G|Ki|Mi|Gi|e3|e-2)"
        ) {
            let text = format!("{n}{frac}{suffix}");
            let canonical = canonicalize(&text).unwrap();
            prop_assert_eq!(Quantity::parse(&text).unwrap(), Quantity::parse(&canonical).unwrap());
            prop_assert_eq!(canonicalize(&canonical).unwrap(), canonical);
        }

        #[test]
        fn add_then_sub_is_identity(a in -1_000_000i64..1_000_000, b in -1_000_000i64..1_000_000) {
            let (x, y) = (Quantity::from_milli(a), Quantity::from_milli(b));
            let mut sum = x;
            sum.add(&y);
            sum.sub(&y);
            prop_assert_eq!(sum, x);
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }

        #[test]
        fn never_panics(s in "\\PC{0,12}") {
            let _ = canonicalize(&s);
        }
    }
}
