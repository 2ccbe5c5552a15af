//! Reading quantities as integers: what admission, cgroups and resource fields need.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The value in thousandths, rounded up.
pub fn milli(q: &Quantity) -> i64 {
    scaled(&q.0, 1000)
}

/// The value, rounded up.
pub fn value(q: &Quantity) -> i64 {
    scaled(&q.0, 1)
}

/// `value / divisor`, rounded up; the divisor counts as one when it is zero or absent.
pub fn divided(q: &Quantity, divisor: Option<&Quantity>, cpu: bool) -> i64 {
    let read = if cpu { milli } else { value };
    let by = divisor.map(read).filter(|d| *d > 0).unwrap_or(if cpu { 1000 } else { 1 });
    let v = read(q);
    v / by + i64::from(v % by > 0)
}

pub fn bytes(n: u64) -> Quantity {
    if n >= 1024 && n.is_multiple_of(1024) {
        Quantity(format!("{}Ki", n / 1024))
    } else {
        Quantity(n.to_string())
    }
}

pub fn from_milli(n: i64) -> Quantity {
    if n % 1000 == 0 { Quantity((n / 1000).to_string()) } else { Quantity(format!("{n}m")) }
}

fn scaled(s: &str, by: i128) -> i64 {
    let s = s.trim();
    let end = s
        .char_indices()
        .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && matches!(c, '+' | '-'))))
        .map_or(s.len(), |(i, _)| i);
    let (number, suffix) = s.split_at(end);
    let negative = number.starts_with('-');
    let digits = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut mantissa: i128 = whole.parse().unwrap_or(0);
    let mut scale: i128 = 1;
    for d in fraction.bytes().take(12) {
        mantissa = mantissa.saturating_mul(10).saturating_add(i128::from(d - b'0'));
        scale *= 10;
    }
    let (up, down): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exp => match exp.strip_prefix(['e', 'E']).and_then(|e| e.parse::<i32>().ok()) {
            Some(e @ 0..=18) => (10_i128.pow(e.unsigned_abs()), 1),
            Some(e @ -18..0) => (1, 10_i128.pow(e.unsigned_abs())),
            _ => (1, 1),
        },
    };
    let top = mantissa.saturating_mul(up).saturating_mul(by);
    let bottom = scale * down;
    let mut out = top / bottom + i128::from(top % bottom > 0);
    if negative {
        out = -(top / bottom);
    }
    i64::try_from(out).unwrap_or(if out < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(s: &str) -> Quantity {
        Quantity(s.into())
    }

    #[test]
    fn reads_quantities() {
        assert_eq!(milli(&q("100m")), 100);
        assert_eq!(milli(&q("1.5")), 1500);
        assert_eq!(milli(&q("2")), 2000);
        assert_eq!(value(&q("64Mi")), 64 << 20);
        assert_eq!(value(&q("1e3")), 1000);
        assert_eq!(value(&q("1500m")), 2);
        assert_eq!(value(&q("1G")), 1_000_000_000);
        assert_eq!(value(&q("0.5Gi")), 1 << 29);
        assert_eq!(value(&q("100E")), i64::MAX);
    }

    #[test]
    fn divides_up() {
        assert_eq!(divided(&q("250m"), None, true), 1);
        assert_eq!(divided(&q("250m"), Some(&q("1m")), true), 250);
        assert_eq!(divided(&q("64Mi"), Some(&q("1Mi")), false), 64);
        assert_eq!(divided(&q("65Mi"), Some(&q("1Gi")), false), 1);
    }
}
