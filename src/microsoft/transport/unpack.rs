//! A body as it comes: unpacked where it is packed, and cut off at the limit, before and after unpacking.
//!
//! Pure. However little the packed bytes are and however much they would become, not more is held than the limit and one small
//! buffer; however many of them come that become nothing, not more are read than the limit.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::{HeaderMap, header};

/// Why a body is not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnpackError {
    /// More than the limit, as it came or unpacked.
    TooLarge,
    /// Packed otherwise than we asked for, or damaged.
    Unpackable(&'static str),
}

/// Takes a body piece by piece.
pub struct Unpack {
    way: Way,
    limit: usize,
    /// Bytes that came.
    came: usize,
}

enum Way {
    Plain(Bounded),
    // Large, and there for some answers only.
    Gzip(Box<MultiGzDecoder<Bounded>>),
}

impl Unpack {
    /// For a body with these headers, of at most `limit` bytes.
    pub fn new(headers: &HeaderMap, limit: usize) -> Result<Self, UnpackError> {
        let bounded = Bounded {
            bytes: Vec::new(),
            limit,
            is_full: false,
        };
        let way = match headers.get(header::CONTENT_ENCODING) {
            None => Way::Plain(bounded),
            Some(word) if word.as_bytes().eq_ignore_ascii_case(b"identity") => Way::Plain(bounded),
            Some(word) if word.as_bytes().eq_ignore_ascii_case(b"gzip") => {
                Way::Gzip(Box::new(MultiGzDecoder::new(bounded)))
            }
            Some(_) => return Err(UnpackError::Unpackable("it is packed, but not with gzip")),
        };
        Ok(Self {
            way,
            limit,
            came: 0,
        })
    }

    /// The next piece.
    pub fn take(&mut self, piece: &[u8]) -> Result<(), UnpackError> {
        self.came = self.came.saturating_add(piece.len());
        if self.came > self.limit {
            return Err(UnpackError::TooLarge);
        }
        match &mut self.way {
            Way::Plain(bounded) => bounded.write_all(piece).map_err(|_| UnpackError::TooLarge),
            Way::Gzip(gzip) => {
                let written = gzip.write_all(piece);
                written.map_err(|_| gzip.get_ref().why())
            }
        }
    }

    /// The whole body, when no piece is left.
    pub fn finish(self) -> Result<Bytes, UnpackError> {
        let bounded = match self.way {
            Way::Plain(bounded) => bounded,
            // Nothing is nothing, however it is said to be packed.
            Way::Gzip(_) if self.came == 0 => return Ok(Bytes::new()),
            Way::Gzip(mut gzip) => {
                let finished = gzip.try_finish();
                finished.map_err(|_| gzip.get_ref().why())?;
                return Ok(std::mem::take(&mut gzip.get_mut().bytes).into());
            }
        };
        Ok(bounded.bytes.into())
    }
}

/// Bytes up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    is_full: bool,
}

impl Bounded {
    /// Why nothing more could be written.
    fn why(&self) -> UnpackError {
        if self.is_full {
            UnpackError::TooLarge
        } else {
            UnpackError::Unpackable("it says that it is gzip, and is not, or is damaged")
        }
    }
}

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if piece.len() > self.limit - self.bytes.len() {
            self.is_full = true;
            return Err(io::Error::other("the body is longer than its limit"));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 64 << 10;

    fn packed() -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_ENCODING, "gzip".parse().unwrap())])
    }

    fn pack(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn unpack(headers: &HeaderMap, pieces: &[&[u8]]) -> Result<Bytes, UnpackError> {
        let mut unpack = Unpack::new(headers, LIMIT)?;
        for piece in pieces {
            unpack.take(piece)?;
        }
        unpack.finish()
    }

    /// How many pieces are taken before it is over, and why.
    fn taken(piece: &[u8]) -> (usize, UnpackError) {
        let mut unpack = Unpack::new(&packed(), LIMIT).unwrap();
        unpack.take(b"\x1f\x8b\x08\0\0\0\0\0\0\xff").unwrap();
        let mut count = 0;
        loop {
            if let Err(why) = unpack.take(piece) {
                return (count, why);
            }
            count += 1;
            assert!(count <= LIMIT, "it never ends");
        }
    }

    #[test]
    fn the_limit_is_exact_whether_packed_or_not() {
        for (size, fits) in [(LIMIT, true), (LIMIT + 1, false)] {
            let bytes = vec![b'a'; size];
            let outcome = |result: Result<Bytes, UnpackError>| match result {
                Ok(read) => read == bytes,
                Err(why) => {
                    assert_eq!(why, UnpackError::TooLarge);
                    false
                }
            };
            assert_eq!(outcome(unpack(&HeaderMap::new(), &[&bytes])), fits);
            assert_eq!(outcome(unpack(&packed(), &[&pack(&bytes)])), fits);
        }
    }

    #[test]
    fn a_bomb_is_over_after_a_few_bytes_and_hollow_gzip_after_the_limit() {
        let mut bomb = Vec::with_capacity(4 << 10);
        flate2::Compress::new(flate2::Compression::best(), false)
            .compress_vec(
                &vec![b' '; 32 << 10],
                &mut bomb,
                flate2::FlushCompress::Full,
            )
            .unwrap();
        let (count, why) = taken(&bomb);
        assert_eq!(why, UnpackError::TooLarge);
        assert!(count <= 3, "{count}");
        let (count, why) = taken(b"\0\0\0\xff\xff");
        assert_eq!(why, UnpackError::TooLarge);
        assert_eq!(count, (LIMIT - 10) / 5);
        // A name of the file that never ends.
        let mut unpack = Unpack::new(&packed(), LIMIT).unwrap();
        unpack.take(b"\x1f\x8b\x08\x08\0\0\0\0\0\xff").unwrap();
        let end = (0..=LIMIT).find_map(|_| unpack.take(b"aaaaaaaa").err());
        assert!(end.is_some());
    }

    #[test]
    fn what_is_no_gzip_or_packed_otherwise_is_said_to_be_so() {
        let whole = pack(b"{\"value\":[]}");
        let mut wrong = whole.clone();
        *wrong.last_mut().unwrap() ^= 1;
        let cut = &whole[..whole.len() - 3];
        for bad in [
            b"{}".as_slice(),
            cut,
            &wrong,
            &[whole.clone(), b"x".into()].concat(),
        ] {
            assert!(matches!(
                unpack(&packed(), &[bad]),
                Err(UnpackError::Unpackable(_))
            ));
        }
        for word in ["br", "deflate", "gzip, gzip", "zstd"] {
            let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, word.parse().unwrap())]);
            assert!(matches!(
                unpack(&headers, &[&whole]),
                Err(UnpackError::Unpackable(_))
            ));
        }
        assert_eq!(unpack(&packed(), &[]), Ok(Bytes::new()));
        let identity =
            HeaderMap::from_iter([(header::CONTENT_ENCODING, "Identity".parse().unwrap())]);
        assert_eq!(unpack(&identity, &[b"a", b"b"]), Ok(Bytes::from("ab")));
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_out_however_it_is_cut(bytes in prop::collection::vec(any::<u8>(), 0..5_000), cut in 1_usize..700) {
            let two = [pack(&bytes), pack(&bytes)].concat();
            let pieces: Vec<&[u8]> = two.chunks(cut).collect();
            prop_assert_eq!(unpack(&packed(), &pieces).unwrap(), [bytes.clone(), bytes].concat());
        }

        #[test]
        fn whatever_comes_not_more_than_the_limit_is_held(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2_000), 0..80), head in any::<bool>()) {
            let mut unpack = Unpack::new(&packed(), 8 << 10).unwrap();
            if head {
                let _ = unpack.take(b"\x1f\x8b\x08\0\0\0\0\0\0\xff");
            }
            for piece in &pieces {
                let outcome = unpack.take(piece);
                if let Way::Gzip(gzip) = &unpack.way {
                    prop_assert!(gzip.get_ref().bytes.len() <= 8 << 10);
                }
                if outcome.is_err() {
                    return Ok(());
                }
            }
        }
    }
}
