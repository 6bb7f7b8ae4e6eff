//! The checksum of the frames of AWS event streams (IEEE 802.3).
//!
//! Bit by bit, without a table: frames are small, and a table would have to be built or stored. The
//! polynomial is 0x04C11DB7, used in its reversed form.

/// The CRC-32 of some bytes.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let rest = bytes.iter().fold(u32::MAX, |rest, byte| {
        (0..8).fold(rest ^ u32::from(*byte), |rest, _| {
            if rest & 1 == 1 { (rest >> 1) ^ 0xEDB8_8320 } else { rest >> 1 }
        })
    });
    !rest
}

#[cfg(test)]
mod tests {
    use super::crc32;

    #[test]
    fn should_have_the_check_value_of_the_algorithm() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
