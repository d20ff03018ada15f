// How the rows of fine-tuning data are written: our pair with its mask, or MindRecord files.
#pragma once

#include "data/sft_builder.h"
#include "data/sft_plan.h"
#include "formats/indexed_dataset.h"

namespace fathom::data {

// In staged samples: the id has loss.
inline constexpr int32_t kTrainedBit = 1 << 30;

// Rows as sft_dataset.h says, or MindRecord rows of seq_length + 1 int32 values: input_ids; labels, equal to them where
// they have loss and -100 elsewhere; packed, position_ids too, which begin at 0 in each sample and in the padding. Fills
// the report's counts of what is written. Whole files or none.
void write_sft_rows(const SftOptions& options, const tokenizer::Tokenizer& tokenizer,
                    const formats::IndexedDataset& staged, const PackingPlan& plan, SftReport& report);

}  // namespace fathom::data
