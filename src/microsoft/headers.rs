//! Reading the few response headers that matter, defensively.

use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, header};

/// Longest claims challenge accepted, in bytes of the header: what fits into one authorize URL.
const MAX_CLAIMS: usize = 4 << 10;

/// We wait at least and at most so long when told to, whatever is asked for. `security-and-faults.md` §6.
const WAIT: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

/// How long Microsoft asks us to wait: seconds, or a date compared with the answer's own `Date`, so that our clock does
/// not matter. Nonsense, the past and zero count as nothing said; more than an hour counts as an hour.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    retry_after_text(
        headers.get(header::RETRY_AFTER)?.to_str().ok()?,
        date(headers),
    )
}

/// The `Date` of an answer.
pub fn date(headers: &HeaderMap) -> Option<std::time::SystemTime> {
    httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()
}

/// As [`retry_after`], for a value that stands elsewhere, as in the answers inside a `$batch`.
pub fn retry_after_text(value: &str, now: Option<std::time::SystemTime>) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // Too many digits for a number are many seconds.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(value)
            .ok()?
            .duration_since(now?)
            .ok()?
    };
    (!wait.is_zero()).then(|| wait.clamp(*WAIT.start(), *WAIT.end()))
}

/// An id of Microsoft's for support cases, if it looks like one.
pub fn id(headers: &HeaderMap, name: &str) -> Option<String> {
    token(headers.get(name)?.to_str().ok()?)
}

/// A short technical word from outside, safe to print: letters, digits and `-._`, at most 64.
pub fn token(text: &str) -> Option<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    (!text.is_empty() && text.len() <= 64 && text.bytes().all(fits)).then(|| text.to_owned())
}

/// The claims challenge of a 401, decoded to its JSON text. `entra-oauth.md` §8: several headers, parameters in any order,
/// base64 or base64url, with or without padding.
pub fn claims_challenge(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .filter(|value| value.len() <= MAX_CLAIMS)
        .find_map(|value| decode_claims(&parameter(value, "claims")?))
}

/// The value of one parameter of a challenge; text inside quotes is never taken for a name.
fn parameter(challenge: &str, wanted: &str) -> Option<String> {
    let mut chars = challenge.chars().peekable();
    let mut name = String::new();
    while let Some(c) = chars.next() {
        match c {
            '=' => {
                let mut value = String::new();
                while chars.next_if(|c| c.is_whitespace()).is_some() {}
                if chars.next_if_eq(&'"').is_some() {
                    while let Some(c) = chars.next() {
                        match c {
                            '"' => break,
                            '\\' => value.extend(chars.next()),
                            c => value.push(c),
                        }
                    }
                } else {
                    while let Some(c) = chars.next_if(|c| *c != ',' && !c.is_whitespace()) {
                        value.push(c);
                    }
                }
                if name.eq_ignore_ascii_case(wanted) {
                    return Some(value);
                }
                name.clear();
            }
            ',' => name.clear(),
            // Blanks around `=` belong to it; a blank elsewhere ends the scheme's name.
            c if c.is_whitespace() => {
                while chars.next_if(|c| c.is_whitespace()).is_some() {}
                if chars.peek() != Some(&'=') {
                    name.clear();
                }
            }
            '"' => while chars.next().is_some_and(|c| c != '"') {},
            c => name.push(c),
        }
    }
    None
}

fn decode_claims(text: &str) -> Option<String> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decoded = [&alphabet::STANDARD, &alphabet::URL_SAFE]
        .into_iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(text).ok())?;
    let json = String::from_utf8(decoded).ok()?;
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&json).ok()?;
    Some(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        for (value, expected) in [
            ("10", Some(10)),
            (" 315 ", Some(315)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", None),
            ("0", None),
            ("-5", None),
            ("soon", None),
            ("", None),
            ("3600", Some(3600)),
            ("31536000", Some(3600)),
            ("18446744073709551615", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Mon, 06 Nov 1995 08:49:37 GMT", Some(3600)),
        ] {
            assert_eq!(
                retry_after(&headers(&[date, ("retry-after", value)])),
                expected.map(Duration::from_secs),
                "{value:?}"
            );
        }
        assert_eq!(
            retry_after(&headers(&[(
                "retry-after",
                "Sun, 06 Nov 1994 08:50:37 GMT"
            )])),
            None
        );
    }

    #[test]
    fn a_claims_challenge_is_found_in_any_order_and_alphabet() {
        let json = r#"{"access_token":{"nbf":{"essential":true,"value":"1604106651>?"}}}"#;
        let standard = base64::engine::general_purpose::STANDARD.encode(json);
        let url = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
        for value in [
            format!(
                r#"Bearer realm="", authorization_uri="https://l/authorize", error="insufficient_claims", claims="{standard}""#
            ),
            format!(r#"Bearer claims="{url}", error="insufficient_claims""#),
            format!(r#"Bearer Claims = {url}, realm="claims=nothing""#),
            format!(r#"Bearer realm="a \"quoted\" claims=x", claims="{standard}""#),
        ] {
            let map = headers(&[
                ("www-authenticate", "Basic realm=\"x\""),
                ("www-authenticate", &value),
            ]);
            assert_eq!(claims_challenge(&map).as_deref(), Some(json), "{value}");
        }
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        for value in [
            "Bearer",
            "Bearer claims=\"%%%\"",
            "Bearer claims=\"bm90IGpzb24=\"",
            "Bearer claims=\"",
            "=,=,\"",
            "claims",
        ] {
            assert_eq!(
                claims_challenge(&headers(&[("www-authenticate", value)])),
                None,
                "{value}"
            );
        }
    }

    #[test]
    fn only_words_that_are_safe_to_print_pass() {
        assert_eq!(
            token("Request_BadRequest").as_deref(),
            Some("Request_BadRequest")
        );
        for bad in ["", "a b", "ann@contoso.com", "x\ny", &"a".repeat(65)] {
            assert_eq!(token(bad), None);
        }
    }
}
