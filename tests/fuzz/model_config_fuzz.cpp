// JSON, and config.json over it: what is accepted can be written and read again as the same model.
#include "config/model_config.h"

#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  Json json;
  const std::string_view text = fuzz::as_text(data, size);
  const bool is_json = fuzz::accepts([&] { json = parse_json(text, "fuzz"); });
  FATHOM_CHECK(is_json == fuzz::accepts([&] { parse_sorted_json(text, "fuzz"); }));
  if (!is_json) return 0;
  config::ModelConfig model;
  if (!fuzz::accepts([&] { model = config::parse_model_config(json, "fuzz"); })) return 0;
  const Json written = config::to_json(model);
  const config::ModelConfig again = config::parse_model_config(written, "written");
  FATHOM_CHECK(config::to_json(again) == written);
  FATHOM_CHECK(again.hidden_size == model.hidden_size && again.q_lora_rank == model.q_lora_rank);
  FATHOM_CHECK(again.softmax_scale() == model.softmax_scale());
  return 0;
}
