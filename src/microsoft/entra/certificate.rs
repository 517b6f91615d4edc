//! As much of a certificate as is needed to know when it ends and whose key it certifies. RFC 5280 §4.1.
//!
//! It is our own file, read once at the start; whatever is not as expected makes the whole unreadable.

use time::{Date, Month, Time};

use crate::model::Timestamp;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// What is read from a certificate.
#[derive(Debug)]
pub struct Certificate<'a> {
    /// `notAfter`.
    pub ends: Timestamp,
    /// `SubjectPublicKeyInfo`, with its own header.
    pub public_key: &'a [u8],
}

/// An element: its tag, its contents, all its bytes.
type Element<'a> = (u8, &'a [u8], &'a [u8]);

/// Takes one element off the front.
fn element<'a>(input: &mut &'a [u8]) -> Option<Element<'a>> {
    let whole = *input;
    let (&tag, rest) = whole.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7F))?;
        rest = after;
        if bytes.is_empty() || bytes.len() > 4 {
            return None;
        }
        bytes
            .iter()
            .fold(0_usize, |length, byte| length << 8 | usize::from(*byte))
    };
    let (contents, after) = rest.split_at_checked(length)?;
    *input = after;
    Some((tag, contents, &whole[..whole.len() - after.len()]))
}

fn sequence<'a>(input: &mut &'a [u8]) -> Option<Element<'a>> {
    element(input).filter(|(tag, ..)| *tag == SEQUENCE)
}

/// Reads a certificate in DER.
pub fn read(mut der: &[u8]) -> Option<Certificate<'_>> {
    let (_, mut certificate, _) = sequence(&mut der)?;
    let (_, mut body, _) = sequence(&mut certificate)?;
    if body.first() == Some(&VERSION) {
        element(&mut body)?;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        element(&mut body)?;
    }
    let (_, mut validity, _) = sequence(&mut body)?;
    element(&mut validity)?;
    let (kind, not_after, _) = element(&mut validity)?;
    // Subject.
    element(&mut body)?;
    let (_, _, public_key) = sequence(&mut body)?;
    Some(Certificate {
        ends: moment(kind, not_after)?,
        public_key,
    })
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`. RFC 5280 §4.1.2.5.
fn moment(kind: u8, text: &[u8]) -> Option<Timestamp> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let two = |digits: &[u8]| (digits[0] - b'0') * 10 + digits[1] - b'0';
    let (year, rest) = match (kind, digits.len()) {
        (UTC_TIME, 12) => {
            let year = i32::from(two(digits));
            (year + if year < 50 { 2000 } else { 1900 }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (
            i32::from(two(digits)) * 100 + i32::from(two(&digits[2..])),
            &digits[4..],
        ),
        _ => return None,
    };
    let month = Month::try_from(two(rest)).ok()?;
    let date = Date::from_calendar_date(year, month, two(&rest[2..])).ok()?;
    let time = Time::from_hms(two(&rest[4..]), two(&rest[6..]), two(&rest[8..])).ok()?;
    let moment = date.with_time(time).assume_utc();
    Some(Timestamp::from_secs(moment.unix_timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_and_the_key_are_found_in_either_form_of_time() {
        let key = rcgen::KeyPair::generate().unwrap();
        // RFC 5280 writes dates from 2050 on in the longer form.
        for (year, text) in [(2027, "2027-05-01"), (2063, "2063-05-01")] {
            let mut params = rcgen::CertificateParams::new(vec!["app".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 5, 1);
            let certificate = params.self_signed(&key).unwrap();
            let read = read(certificate.der()).unwrap();
            assert!(read.ends.to_string().starts_with(text), "{}", read.ends);
            let public = rcgen::PublicKeyData::subject_public_key_info(&key);
            assert_eq!(read.public_key, public);
        }
    }

    #[test]
    fn a_damaged_certificate_is_no_certificate_and_no_panic() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["app".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        for length in 0..certificate.der().len() {
            assert!(read(&certificate.der()[..length]).is_none());
        }
        for n in 0..certificate.der().len() {
            let mut damaged = certificate.der().to_vec();
            damaged[n] ^= 0x81;
            let _ = read(&damaged);
        }
        assert!(moment(UTC_TIME, b"2705010000").is_none());
        assert!(moment(UTC_TIME, b"271301000000Z").is_none());
        assert!(moment(GENERALIZED_TIME, b"270501000000Z").is_none());
    }
}
