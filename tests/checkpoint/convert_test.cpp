// HF -> HF conversions of a small random model with ragged blocks, an expert cut, MTP and everything else.
#include "checkpoint/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <set>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/file.h"
#include "checkpoint/compare.h"
#include "checkpoint/fp8_blocks.h"
#include "checkpoint/init.h"
#include "checkpoint/inspect.h"
#include "checkpoint/stored_values.h"
#include "kernels/fp8.h"
#include "support/scratch.h"
#include "support/small_checkpoint.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using ::testing::HasSubstr;

using test::small_model;

class Convert : public ::testing::Test {
 protected:
  Convert() : source_(scratch_ / "source") {
    init_checkpoint(small_model(), Dtype::BF16, 7, source_);
    write_text_file(source_ / "chat_template.jinja", "{{ messages }}");
  }

  fs::path convert(const std::string& name, const ConvertOptions& options, const fs::path& from = {}) {
    const fs::path directory = scratch_ / name;
    report_ = convert_checkpoint(from.empty() ? source_ : from, directory, options);
    EXPECT_FALSE(fs::exists(directory / "convert.journal.json"));
    const Inspection inspection = inspect(directory);
    EXPECT_THAT(inspection.missing, ::testing::IsEmpty());
    EXPECT_THAT(inspection.unexpected, ::testing::IsEmpty());
    return directory;
  }
  fs::path to_dtype(const std::string& name, const std::string& dtype, const fs::path& from = {}) {
    ConvertOptions options;
    options.dtype = dtype;
    return convert(name, options, from);
  }
  static bool same(const fs::path& a, const fs::path& b) {
    return compare(inspect(a), inspect(b)).identical();
  }

  template <typename Fault = UsageError>
  std::string refusal(const ConvertOptions& options, const fs::path& directory = {}) {
    try {
      convert_checkpoint(source_, directory.empty() ? scratch_ / "refused" : directory, options);
    } catch (const Fault& e) {
      return e.what();
    }
    return "not refused";
  }

  // The source with one tensor changed: `edit` may rename, reshape or (returning false) leave it out.
  void rewrite(const std::function<bool(formats::TensorDeclaration&)>& edit,
               const std::vector<formats::TensorDeclaration>& added = {}) {
    test::rewrite_tensors(source_ / formats::kSingleFileName, edit, added);
  }

  const test::ScratchDirectory scratch_;
  const fs::path source_;
  ConvertReport report_;
};

TEST_F(Convert, WT_1_fp8_to_bf16_is_code_times_scale) {
  const fs::path fp8 = to_dtype("fp8", "fp8"), bf16_directory = to_dtype("bf16", "bf16", fp8);
  const formats::ShardedReader from(fp8), to(bf16_directory);
  int64_t matrices = 0;
  for (const auto& location : from.tensors()) {
    if (location.entry->dtype != Dtype::F8_E4M3) continue;
    ++matrices;
    const std::string& name = location.entry->name;
    const int64_t rows = location.entry->shape[0], columns = location.entry->shape[1];
    const auto* scales = reinterpret_cast<const float*>(from.at(name + kScaleSuffix).bytes().data());
    const auto* values = reinterpret_cast<const bf16*>(to.at(name).bytes().data());
    for (int64_t i = 0; i < rows * columns; ++i) {
      const float scale = scales[i / columns / 128 * ((columns + 127) / 128) + i % columns / 128];
      const double code = kernels::e4m3_value(static_cast<uint8_t>(location.bytes()[static_cast<size_t>(i)]));
      ASSERT_EQ(values[i].bits, to_bf16(static_cast<float>(code * double(scale))).bits) << name << " " << i;
    }
  }
  EXPECT_EQ(matrices, 5 * 5 + 3 + 4 * 3 * 17);
  const auto config = config::read_model_config(bf16_directory);
  EXPECT_FALSE(config.quantization);
  EXPECT_TRUE(config::read_model_config(fp8).quantization);
  EXPECT_EQ(config.raw["a_key_of_others"], "kept");
  EXPECT_EQ(read_text_file(bf16_directory / "chat_template.jinja"), "{{ messages }}");
}

TEST_F(Convert, fp8_is_stable) {
  const fs::path once = to_dtype("once", "fp8"),
                 twice = to_dtype("twice", "fp8", to_dtype("between", "bf16", once));
  EXPECT_TRUE(same(once, twice));
  EXPECT_TRUE(same(once, to_dtype("copy", "fp8", once))) << "fp8 to fp8 copies";
  ConvertOptions options;
  options.dtype = "fp8";
  options.scale_format = "ue8m0";
  const fs::path powers = convert("powers", options);
  EXPECT_EQ(config::read_model_config(powers).quantization->scale_fmt, "ue8m0");
  const formats::ShardedReader reader(powers);
  for (const auto& location : reader.tensors()) {
    if (!location.entry->name.ends_with(kScaleSuffix)) continue;
    const auto* scales = reinterpret_cast<const float*>(location.bytes().data());
    int exponent;
    for (int64_t i = 0; i < location.entry->numel(); ++i)
      ASSERT_EQ(std::frexp(scales[i], &exponent), 0.5f) << location.entry->name;
  }
}

TEST_F(Convert, wider_dtypes_lose_nothing_and_the_router_bias_stays_float32) {
  EXPECT_TRUE(same(source_, to_dtype("back", "bf16", to_dtype("wide", "fp32"))));
  const formats::ShardedReader half(to_dtype("half", "fp16"));
  EXPECT_EQ(half.at("model.norm.weight").entry->dtype, Dtype::F16);
  EXPECT_EQ(half.at("model.layers.1.mlp.gate.e_score_correction_bias").entry->dtype, Dtype::F32);
  EXPECT_EQ(config::read_model_config(scratch_ / "half").dtype, "float16");
}

TEST_F(Convert, any_shard_size_holds_the_same_tensors) {
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{300'000}, uint64_t{5'000'000'000}}) {
    ConvertOptions options;
    options.max_shard_bytes = bytes;
    EXPECT_TRUE(same(source_, convert(std::to_string(bytes), options)));
    EXPECT_EQ(report_.files == 1, bytes > 1'000'000'000);
  }
}

TEST_F(Convert, cuts_layers_and_experts) {
  ConvertOptions options;
  options.cut = {"0,3", "4-7,12-15", false};
  const fs::path cut = convert("cut", options);
  const config::ModelConfig model = config::read_model_config(cut);
  EXPECT_EQ(model.num_hidden_layers, 2);
  EXPECT_EQ(model.first_k_dense_replace, 1);
  EXPECT_EQ(model.num_nextn_predict_layers, 1);
  EXPECT_EQ(model.n_routed_experts, 8);
  EXPECT_EQ(model.n_group, 2);
  EXPECT_EQ(model.topk_group, 2);
  const formats::ShardedReader from(source_), to(cut);
  const auto equal = [&](const std::string& now, const std::string& before) {
    const auto a = to.at(now).bytes(), b = from.at(before).bytes();
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
  };
  EXPECT_TRUE(equal("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"));
  EXPECT_TRUE(
      equal("model.layers.1.mlp.experts.4.up_proj.weight", "model.layers.3.mlp.experts.12.up_proj.weight"));
  EXPECT_TRUE(equal("model.layers.2.eh_proj.weight", "model.layers.4.eh_proj.weight"));
  const auto router = to.at("model.layers.1.mlp.gate.weight").bytes(),
             whole = from.at("model.layers.3.mlp.gate.weight").bytes();
  EXPECT_EQ(std::memcmp(router.data(), whole.data() + 4 * 160 * 2, 4 * 160 * 2), 0);
  EXPECT_EQ(std::memcmp(router.data() + 4 * 160 * 2, whole.data() + 12 * 160 * 2, 4 * 160 * 2), 0);

  options.cut = {"1-2", "", true};
  const config::ModelConfig sparse = config::read_model_config(convert("sparse", options));
  EXPECT_EQ(sparse.first_k_dense_replace, 0);
  EXPECT_EQ(sparse.num_nextn_predict_layers, 0);
}

// first_k_dense_replace reaches beyond the trunk: the MTP layer has no experts either.
TEST_F(Convert, cuts_a_model_whose_layers_are_all_dense) {
  Json json = config::to_json(small_model());
  json["first_k_dense_replace"] = 9;
  const fs::path dense = scratch_ / "dense";
  init_checkpoint(config::parse_model_config(json, "dense"), Dtype::BF16, 7, dense);
  EXPECT_TRUE(same(dense, convert("whole", {}, dense)));
  ConvertOptions options;
  options.cut = {"1,3", "", false};
  const fs::path cut = convert("cut", options, dense);
  const config::ModelConfig model = config::read_model_config(cut);
  for (int64_t layer = 0; layer < 3; ++layer) EXPECT_FALSE(model.is_moe_layer(layer));
  EXPECT_EQ(model.num_nextn_predict_layers, 1);
  EXPECT_TRUE(formats::ShardedReader(cut).find("model.layers.2.mlp.up_proj.weight"));
  options.cut.drop_mtp = true;
  EXPECT_EQ(config::read_model_config(convert("trunk", options, dense)).num_layers_with_mtp(), 2);
}

TEST_F(Convert, refuses_cuts_that_make_no_model) {
  const auto says = [&](const char* layers, const char* experts) {
    ConvertOptions options;
    options.cut = {layers, experts, false};
    return refusal(options);
  };
  EXPECT_THAT(says("4", ""), HasSubstr("MTP layer"));
  EXPECT_THAT(says("9", ""), HasSubstr("no layer 9"));
  EXPECT_THAT(says("2,1", ""), HasSubstr("ascend"));
  EXPECT_THAT(says("0-", ""), HasSubstr("is no number"));
  EXPECT_THAT(says("0,,1", ""), HasSubstr("is no number"));
  EXPECT_THAT(says("", "0-5"), HasSubstr("equally many of each group"));
  EXPECT_THAT(says("", "0-1"), HasSubstr("num_experts_per_tok"));
  EXPECT_THAT(says("", "99999999999999999999"), HasSubstr("is no number"));
}

TEST_F(Convert, WT_10_goes_on_after_a_stop) {
  ConvertOptions options;
  options.dtype = "fp8";
  const fs::path whole = convert("whole", options), stopped = scratch_ / "stopped";
  options.max_shard_bytes = 400'000;
  std::atomic<int64_t> asked = 0;
  options.is_stopped = [&] { return ++asked > 200; };
  EXPECT_THROW(convert_checkpoint(source_, stopped, options), Error);
  EXPECT_FALSE(fs::exists(stopped / "config.json"));
  std::set<fs::path> written;
  for (const auto& entry : fs::directory_iterator(stopped)) written.insert(entry.path().filename());
  EXPECT_TRUE(written.contains("convert.journal.json"));
  EXPECT_GT(written.size(), 1U);

  options.is_stopped = [] { return false; };
  const auto first_time = [&] {
    for (const auto& name : written)
      if (name.extension() == ".safetensors") return fs::last_write_time(stopped / name);
    return fs::file_time_type();
  };
  const auto before = first_time();
  convert("stopped", options);
  EXPECT_GT(report_.resumed_bytes, 0U);
  EXPECT_LT(report_.resumed_bytes, report_.bytes);
  EXPECT_EQ(first_time(), before) << "what was done is not written again";
  EXPECT_TRUE(same(whole, stopped));
}

TEST_F(Convert, starts_anew_when_an_option_changed) {
  ConvertOptions options;
  options.max_shard_bytes = 400'000;
  std::atomic<int64_t> asked = 0;
  options.is_stopped = [&] { return ++asked > 200; };
  EXPECT_THROW(convert_checkpoint(source_, scratch_ / "anew", options), Error);
  options.is_stopped = [] { return false; };
  options.max_shard_bytes = 5'000'000'000;
  std::string name;
  for (const auto& entry : fs::directory_iterator(scratch_ / "anew"))
    if (entry.path().extension() == ".safetensors") name = entry.path().filename();
  const fs::path leftover = scratch_ / "anew" / (name + ".tmp-1");
  write_text_file(leftover, "of a killed process");
  EXPECT_TRUE(same(source_, convert("anew", options)));
  EXPECT_EQ(report_.resumed_bytes, 0U);
  EXPECT_FALSE(fs::exists(leftover));
  for (const auto& entry : fs::directory_iterator(scratch_ / "anew"))
    EXPECT_FALSE(entry.path().filename().string().starts_with("model-") &&
                 entry.path().extension() == ".safetensors")
        << entry.path();
}

TEST_F(Convert, refuses_other_directories) {
  EXPECT_THAT(refusal({}, source_), HasSubstr("both source and destination"));
  EXPECT_THAT(refusal({}, source_ / "../source/."), HasSubstr("both source and destination"));
  EXPECT_THAT(refusal({}, source_ / "fp8/"), HasSubstr("inside its source"));
  to_dtype("done", "fp32");
  EXPECT_THAT(refusal<CheckpointError>({}, scratch_ / "done"), HasSubstr("holds a checkpoint"));
  ConvertOptions options;
  options.dtype = "int3";
  EXPECT_THAT(refusal(options), HasSubstr("int3"));
}

// A header without "__metadata__", as some converters write it.
TEST_F(Convert, WT_4_a_header_without_metadata_and_ours_with_it) {
  const fs::path path = source_ / formats::kSingleFileName;
  std::string bytes = read_text_file(path);
  const std::string map = R"("__metadata__":{"format":"pt"},)";
  const size_t at = bytes.find(map);
  ASSERT_NE(at, std::string::npos);
  bytes.replace(at, map.size(), std::string(map.size(), ' '));
  write_text_file(path, bytes);
  ASSERT_TRUE(formats::SafetensorsFile(path).metadata().empty());
  const formats::SafetensorsFile written(convert("written", {}) / formats::kSingleFileName);
  EXPECT_EQ(written.metadata().at("format"), "pt");
  EXPECT_TRUE(same(source_, scratch_ / "written"));
}

// Bias of layer l, expert e = l + e / 1000, through every dtype and back, MTP's too.
TEST_F(Convert, WT_8_router_bias_survives) {
  const fs::path path = source_ / formats::kSingleFileName;
  std::string bytes = read_text_file(path);
  const auto bias_of = [](int layer) {
    return fmt::format("model.layers.{}.mlp.gate.e_score_correction_bias", layer);
  };
  std::vector<std::string> expected;
  for (int layer = 1; layer <= 4; ++layer) {
    std::vector<float> bias(16);
    for (size_t e = 0; e < bias.size(); ++e)
      bias[e] = static_cast<float>(layer) + static_cast<float>(e) / 1000;
    expected.emplace_back(reinterpret_cast<const char*>(bias.data()), 64);
    bytes.replace(formats::SafetensorsFile(path).at(bias_of(layer)).offset, 64, expected.back());
  }
  write_text_file(path, bytes);
  fs::path from = source_;
  for (const char* dtype : {"fp8", "bf16", "fp16", "fp32", "bf16"}) {
    from = to_dtype(fmt::format("{}_of_{}", dtype, from.filename().string()), dtype, from);
    const formats::ShardedReader reader(from);
    for (int layer = 1; layer <= 4; ++layer) {
      const auto stored = reader.at(bias_of(layer)).bytes();
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(stored.data()), stored.size()),
                expected[static_cast<size_t>(layer) - 1])
          << dtype << " " << layer;
    }
  }
}

TEST_F(Convert, WT_6_an_unknown_tensor_is_named) {
  rewrite([](auto&) { return true; }, {{"model.layers.3.mlp.foo", Dtype::BF16, {2}}});
  EXPECT_THAT(refusal<CheckpointError>({}), HasSubstr("model.layers.3.mlp.foo is not part of the model"));
}

TEST_F(Convert, WT_7_a_missing_tensor_is_named_and_a_missing_copy_is_tied) {
  rewrite([](auto& tensor) { return tensor.name != "model.layers.4.shared_head.head.weight"; });
  const formats::ShardedReader tied(convert("tied", {}));
  const auto copy = tied.at("model.layers.4.shared_head.head.weight").bytes(),
             head = tied.at("lm_head.weight").bytes();
  EXPECT_EQ(std::memcmp(copy.data(), head.data(), head.size()), 0);
  rewrite([](auto& tensor) { return tensor.name != "model.layers.4.eh_proj.weight"; });
  EXPECT_THAT(refusal<CheckpointError>({}), HasSubstr("model.layers.4.eh_proj.weight is missing"));
  ConvertOptions options;
  options.cut.drop_mtp = true;
  convert("trunk", options);
}

TEST_F(Convert, fp8_needs_finite_values) {
  rewrite([](auto& tensor) { return tensor.name != "model.layers.0.mlp.up_proj.weight"; },
          {{"model.layers.0.mlp.up_proj.weight", Dtype::BF16, {704, 160}}});
  to_dtype("zeros", "fp8");  // a matrix of zeros is no fault
  const formats::SafetensorsFile file(scratch_ / "zeros/model.safetensors");
  const auto* scale =
      reinterpret_cast<const float*>(file.bytes("model.layers.0.mlp.up_proj.weight_scale_inv").data());
  EXPECT_EQ(*scale, 1);
}

// Blocks quantized and dequantized by PyTorch (make_fp8_fixture.py).
TEST(Fp8Blocks, as_pytorch_has_them) {
  const fs::path path = fs::path(FATHOM_SOURCE_DIR) / "tests/checkpoint/fp8_fixture.safetensors";
  const auto reader = std::make_shared<formats::ShardedReader>(path);
  TensorView view = stored_view(reader, "source");
  view.name = "w";
  const test::ScratchDirectory scratch;
  SavedFile file{"model.safetensors", quantized(std::move(view), ScaleFormat::float32), {}};
  write_saved_file(scratch.path(), file);
  const auto made = std::make_shared<formats::ShardedReader>(scratch.path() / "model.safetensors");
  const auto same = [](std::span<const std::byte> a, std::span<const std::byte> b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
  };
  EXPECT_TRUE(same(made->at("w").bytes(), reader->at("codes").bytes()));
  EXPECT_TRUE(same(made->at("w_scale_inv").bytes(), reader->at("scale_inv").bytes()));
  std::vector<std::byte> values(131 * 150 * 2);
  stored_view(made, "w").read(0, 131 * 150, Dtype::BF16, values.data());
  EXPECT_TRUE(same(values, reader->at("values").bytes()));
}

}  // namespace
}  // namespace fathom::checkpoint
