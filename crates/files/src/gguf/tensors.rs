//! The descriptions of the tensors, and whether the file is long enough for them.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use super::cursor::{Cursor, Place};
use super::error::GgufError;
use super::tensor_types::{self, TensorType};

const DIMENSIONS_MAX: u32 = 4;

pub(super) struct Tensors {
    pub(super) parameters: u64,
    /// The type that most parameters have, if it is a known one.
    pub(super) main_type: Option<&'static str>,
}

/// One description.
struct Tensor {
    name: String,
    parameters: u64,
    kind: Option<TensorType>,
    /// Where its data begins and ends within the data section; without a known type, its end is its begin.
    begin: u64,
    end: u64,
}

/// Reads `count` descriptions and checks that the data of each lies within the file.
pub(super) fn read<R: Read + Seek>(
    cursor: &mut Cursor<'_, R>,
    count: u64,
    alignment: u64,
) -> Result<Tensors, GgufError> {
    let mut parameters: u64 = 0;
    // Types that are not known share one entry, so that a file cannot make the map large.
    let mut per_type: BTreeMap<Option<&'static str>, u64> = BTreeMap::new();
    let mut last: Option<Tensor> = None;
    for number in 0..count {
        let offset = cursor.position();
        let tensor = read_one(cursor, number, alignment)?;
        parameters = parameters
            .checked_add(tensor.parameters)
            .ok_or_else(|| GgufError::Overflow { place: "all tensors".to_owned(), offset })?;
        *per_type.entry(tensor.kind.map(|kind| kind.name)).or_default() += tensor.parameters;
        if last.as_ref().is_none_or(|last| tensor.end > last.end) {
            last = Some(tensor);
        }
    }
    if let Some(last) = last {
        check_end(cursor, &last, alignment)?;
    }
    let main_type = per_type.into_iter().max_by_key(|(_, parameters)| *parameters).and_then(|(kind, _)| kind);
    Ok(Tensors { parameters, main_type })
}

fn read_one<R: Read + Seek>(cursor: &mut Cursor<'_, R>, number: u64, alignment: u64) -> Result<Tensor, GgufError> {
    let described = cursor.position();
    let name = cursor.name(Place::TensorName(number))?;
    let place = Place::Tensor(&name);
    let overflow = || GgufError::Overflow { place: place.to_string(), offset: described };

    let offset = cursor.position();
    let dimensions = cursor.u32(place)?;
    if dimensions > DIMENSIONS_MAX {
        let max = DIMENSIONS_MAX;
        return Err(GgufError::Dimensions { place: place.to_string(), offset, found: dimensions, max });
    }
    let mut parameters: u64 = 1;
    let mut row: u64 = 1;
    for dimension in 0..dimensions {
        let length = cursor.u64(place)?;
        if dimension == 0 {
            row = length;
        }
        parameters = parameters.checked_mul(length).ok_or_else(overflow)?;
    }

    let kind = tensor_types::tensor_type(cursor.u32(place)?);
    let offset = cursor.position();
    let begin = cursor.u64(place)?;
    if !begin.is_multiple_of(alignment) {
        return Err(GgufError::Misaligned { place: place.to_string(), offset, found: begin, alignment });
    }
    let bytes = match kind {
        None => 0,
        Some(TensorType { block, .. }) if !row.is_multiple_of(block) => {
            return Err(GgufError::PartialBlock { place: place.to_string(), offset: described, row, block });
        }
        Some(TensorType { block, block_bytes, .. }) => {
            (parameters / block).checked_mul(block_bytes).ok_or_else(overflow)?
        }
    };
    let end = begin.checked_add(bytes).ok_or_else(overflow)?;
    Ok(Tensor { name, parameters, kind, begin, end })
}

/// The data begins at the next multiple of the alignment; the tensor that ends last has to end within the file.
fn check_end<R: Read + Seek>(cursor: &Cursor<'_, R>, last: &Tensor, alignment: u64) -> Result<(), GgufError> {
    let place = Place::Tensor(&last.name).to_string();
    let data = cursor.position().checked_next_multiple_of(alignment);
    let placed = data.and_then(|data| Some((data.checked_add(last.begin)?, data.checked_add(last.end)?)));
    let Some((begin, end)) = placed else {
        return Err(GgufError::Overflow { place, offset: cursor.position() });
    };
    match end.checked_sub(cursor.size()) {
        None | Some(0) => Ok(()),
        Some(missing) => Err(GgufError::Truncated { place, offset: begin, missing }),
    }
}
