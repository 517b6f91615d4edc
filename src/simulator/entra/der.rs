//! As much DER as is needed to find the public key in a certificate and the numbers in a public key. RFC 5280 §4.1, RFC 8017 §A.1.

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xA0;

/// Takes one element off the front: its tag, its contents, all its bytes.
fn element<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8], &'a [u8])> {
    let whole = *input;
    let (&tag, rest) = whole.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7F))?;
        rest = after;
        if bytes.len() > 4 {
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

fn expect<'a>(input: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    let (tag, contents, _) = element(input)?;
    (tag == wanted).then_some(contents)
}

/// The `SubjectPublicKeyInfo` of a certificate, with its own header.
pub fn public_key_of_certificate(mut certificate: &[u8]) -> Option<&[u8]> {
    let mut certificate = expect(&mut certificate, SEQUENCE)?;
    let mut body = expect(&mut certificate, SEQUENCE)?;
    if body.first() == Some(&VERSION) {
        element(&mut body)?;
    }
    // Serial number, signature algorithm, issuer, validity, subject.
    for _ in 0..5 {
        element(&mut body)?;
    }
    let (tag, _, whole) = element(&mut body)?;
    (tag == SEQUENCE).then_some(whole)
}

/// Modulus and exponent of an `RSAPublicKey`, without leading zeros.
pub fn rsa_public_key(mut key: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut key = expect(&mut key, SEQUENCE)?;
    let modulus = expect(&mut key, INTEGER)?;
    let exponent = expect(&mut key, INTEGER)?;
    Some((strip(modulus), strip(exponent)))
}

fn strip(number: &[u8]) -> &[u8] {
    number.strip_prefix(&[0]).unwrap_or(number)
}
