//! Numbers as text for people: sizes, counts, ages.

/// A size with a unit: "4 KiB", "1.5 MiB", "128 GiB".
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    // 1023.95 and more would be rounded to 1024.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let shown = format!("{value:.1}");
    let shown = match shown.strip_suffix(".0") {
        Some(whole) => whole,
        None if value >= 100.0 => &format!("{value:.0}"),
        None => &shown,
    };
    format!("{shown} {}", UNITS[unit])
}

/// "1 page", "2,345 pages".
pub(crate) fn count(count: u64, one: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {one}{s}", grouped(count))
}

/// A number with commas.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A part of a whole, in percent.
pub(crate) fn share(part: u64, whole: u64) -> String {
    let percent = part as f64 * 100.0 / whole.max(1) as f64;
    match percent {
        0.0 => "0%".into(),
        _ if percent < 0.1 => "under 0.1%".into(),
        _ if percent < 10.0 => format!("{percent:.1}%"),
        _ => format!("{percent:.0}%"),
    }
}

/// How long ago `then` was. Both times are in nanoseconds since 1970.
pub(crate) fn age(then: u64, now: u64) -> String {
    let Some(seconds) = now.checked_sub(then).map(|ns| ns / 1_000_000_000) else {
        // `then` is later than `now`: the clock was set back.
        return if then - now < 60_000_000_000 {
            "just now".into()
        } else {
            "in the future".into()
        };
    };
    let (number, unit) = match seconds {
        0..60 => return "just now".into(),
        60..3_600 => (seconds / 60, "min"),
        3_600..86_400 => (seconds / 3_600, "h"),
        86_400..5_184_000 => (seconds / 86_400, "d"),
        5_184_000..63_072_000 => (seconds / 2_628_000, "months"),
        _ => (seconds / 31_536_000, "years"),
    };
    format!("{number} {unit} ago")
}

/// Now, in nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// A time for people, in this host's zone.
pub(crate) fn time(ns: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
}

/// A unique id, in hexadecimal.
pub(crate) fn id(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The nanoseconds of an age like "90s", "15m", "36h", "7d" or "4w".
pub(crate) fn duration(text: &str) -> Result<u64, String> {
    let rule = || "expected a number and a unit (s, m, h, d or w), as in 36h".to_owned();
    let (number, unit) = text
        .char_indices()
        .find(|(_, c)| !c.is_ascii_digit())
        .map(|(at, _)| text.split_at(at))
        .ok_or_else(rule)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(rule()),
    };
    let number: u64 = number.parse().map_err(|_| rule())?;
    let ns = number.checked_mul(seconds * 1_000_000_000);
    ns.filter(|ns| *ns > 0)
        .ok_or_else(|| "expected more than 0 and at most 500 years".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_few_digits_and_never_reach_1024_of_a_unit() {
        let pairs = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (4096, "4 KiB"),
            (1536, "1.5 KiB"),
            (150 << 10, "150 KiB"),
            (157_235, "154 KiB"),
            ((1 << 20) - 1, "1 MiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (number, text) in pairs {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn ages_have_a_unit_that_fits_them() {
        let s = 1_000_000_000;
        let now = 2_000_000_000 * s;
        let pairs = [
            (0, "just now"),
            (59, "just now"),
            (60, "1 min ago"),
            (7_200, "2 h ago"),
            (86_400 * 3, "3 d ago"),
            (86_400 * 100, "3 months ago"),
            (86_400 * 800, "2 years ago"),
        ];
        for (seconds, text) in pairs {
            assert_eq!(age(now - seconds * s, now), text);
        }
        assert_eq!(age(now + s, now), "just now");
        assert_eq!(age(now + 3_600 * s, now), "in the future");
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("36h"), Ok(36 * 3_600 * 1_000_000_000));
        assert_eq!(duration("1w"), duration("7d"));
        for wrong in ["", "h", "12", "1y", "-1h", "0s", "99999999w", "1.5h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(1, "page"), "1 page");
        assert_eq!(count(1_234_567, "page"), "1,234,567 pages");
        assert_eq!(count(123, "page"), "123 pages");
    }
}
