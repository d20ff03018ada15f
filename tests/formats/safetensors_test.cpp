#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "base/bfloat16.h"
#include "base/error.h"
#include "formats/sharded_safetensors.h"
#include "support/scratch.h"

namespace fathom::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

template <typename T>
std::vector<T> values(std::span<const std::byte> bytes) {
  std::vector<T> result(bytes.size() / sizeof(T));
  std::memcpy(result.data(), bytes.data(), bytes.size());
  return result;
}

std::string file_text(const std::string& header, size_t data_bytes) {
  std::string text(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(text.data(), &length, 8);
  return text + header + std::string(data_bytes, 'x');
}

// The refusal's message; empty where the header is accepted.
std::string refusal(const std::string& file) {
  try {
    parse_safetensors_header(as_bytes(file), file.size(), "f");
    return "";
  } catch (const CheckpointError& e) {
    return e.what();
  }
}

std::string refusal(const std::string& header, size_t data_bytes) {
  return refusal(file_text(header, data_bytes));
}

TEST(Safetensors, reads_what_the_reference_writer_wrote) {
  const SafetensorsFile file(FATHOM_SOURCE_DIR "/tests/formats/data/hf_mixed.safetensors");
  EXPECT_EQ(file.tensors().size(), 10u);
  EXPECT_EQ(file.metadata().at("note"), "fixture");
  EXPECT_THAT(values<float>(file.bytes("model.norm.weight")),
              ElementsAre(0.f, 1 / 3.f, 2 / 3.f, 1.f, 4 / 3.f));
  EXPECT_THAT(values<double>(file.bytes("gate.e_score_correction_bias")), ElementsAre(1.5, -2.25, 6.817));
  const TensorEntry& embedding = file.at("model.embed_tokens.weight");
  EXPECT_EQ(embedding.dtype, Dtype::BF16);
  EXPECT_THAT(embedding.shape, ElementsAre(7, 3));
  EXPECT_EQ(to_float(values<bf16>(file.bytes(embedding))[20]), 13.f);
  EXPECT_THAT(values<uint8_t>(file.bytes("weight_fp8")), ElementsAre(0x38, 0xc0, 0x7e));
  EXPECT_EQ(file.at("scale_ue8m0").dtype, Dtype::F8_E8M0);
  EXPECT_THAT(values<uint8_t>(file.bytes("scale_ue8m0")), ElementsAre(127, 128, 126, 129));
  EXPECT_TRUE(file.at("step").shape.empty());
  EXPECT_EQ(file.at("step").numel(), 1);
  EXPECT_THAT(values<int64_t>(file.bytes("step")), ElementsAre(1000));
  EXPECT_EQ(file.at("mask").dtype, Dtype::BOOL);
  EXPECT_THAT(values<int8_t>(file.bytes("codes")), ElementsAre(-128, 127, 3));
  EXPECT_EQ(file.at("empty").bytes, 0u);
  EXPECT_THAT(file.at("empty").shape, ElementsAre(0, 4));
  EXPECT_THAT(values<uint16_t>(file.bytes("\xe6\x9d\x83\xe9\x87\x8d")), ElementsAre(7));
  EXPECT_EQ(file.find("norm"), nullptr);
  EXPECT_THROW(file.at("norm"), CheckpointError);
}

// Written again by us from the declarations that were read, a file of the reference writer has the same bytes: so it reads what
// we write, dtype by dtype (its order of tensors is by size, then name).
TEST(Safetensors, every_dtype_is_read_from_and_written_as_the_reference_writer_does) {
  const std::filesystem::path folder = FATHOM_SOURCE_DIR "/tests/formats/data";
  std::set<std::string_view> dtypes;
  for (const char* name : {"hf_dtypes.safetensors", "hf_mixed.safetensors"}) {
    const SafetensorsFile theirs(folder / name);
    std::vector<TensorDeclaration> declared;
    for (const TensorEntry& entry : theirs.tensors()) {
      declared.push_back({entry.name, entry.dtype, entry.shape});
      dtypes.insert(dtype_name(entry.dtype));
    }
    const test::ScratchDirectory scratch;
    SafetensorsWriter writer(scratch / "ours.safetensors", declared, theirs.metadata());
    for (const TensorDeclaration& tensor : declared) writer.write(tensor.name, theirs.bytes(tensor.name));
    writer.commit();
    EXPECT_TRUE(read_text_file(scratch / "ours.safetensors") == read_text_file(folder / name)) << name;
  }
  EXPECT_EQ(dtypes.size(), 20u);  // all but the two of 6 bits, which torch has not

  const SafetensorsFile theirs(folder / "hf_dtypes.safetensors");
  const std::map<std::string, std::pair<std::string_view, std::vector<int64_t>>> expected = {
      {"float64", {"F64", {2}}},
      {"bfloat16", {"BF16", {8}}},
      {"uint16", {"U16", {8}}},
      {"float8_e4m3fn", {"F8_E4M3", {16}}},
      {"float8_e5m2", {"F8_E5M2", {16}}},
      {"float8_e8m0fnu", {"F8_E8M0", {16}}},
      {"float8_e4m3fnuz", {"F8_E4M3FNUZ", {16}}},
      {"float8_e5m2fnuz", {"F8_E5M2FNUZ", {16}}},
      {"float4_e2m1fn_x2", {"F4", {32}}},
      {"complex64", {"C64", {2}}},
      {"int4.weight_packed", {"I32", {8, 2}}},
      {"int4.weight_packed_u8", {"U8", {8, 8}}},
  };
  for (const auto& [name, what] : expected) {
    EXPECT_EQ(dtype_name(theirs.at(name).dtype), what.first) << name;
    EXPECT_EQ(theirs.at(name).shape, what.second) << name;
  }
  std::vector<uint8_t> counting(16);
  std::iota(counting.begin(), counting.end(), uint8_t{0});
  for (const char* name : {"float64", "float16", "float8_e5m2", "float4_e2m1fn_x2", "complex64", "uint64"})
    EXPECT_EQ(values<uint8_t>(theirs.bytes(name)), counting) << name;
  const std::vector<uint8_t> packed = values<uint8_t>(theirs.bytes("int4.weight_packed"));
  EXPECT_EQ(packed, values<uint8_t>(theirs.bytes("int4.weight_packed_u8")));
  for (size_t i = 0; i < packed.size(); ++i) EXPECT_EQ(packed[i], i * 37 % 256);
}

TEST(Safetensors, slices_from_many_threads_make_the_file) {
  const test::ScratchDirectory scratch;
  constexpr int64_t kTensors = 5, kBytes = 100'003, kSlice = 777;
  std::vector<TensorDeclaration> tensors;
  for (int64_t t = 0; t < kTensors; ++t) tensors.push_back({"t" + std::to_string(t), Dtype::U8, {kBytes}});
  SafetensorsWriter writer(scratch / "a.safetensors", tensors);
  const auto value = [](int64_t t, int64_t i) { return static_cast<std::byte>(t * 31 + i * 7 % 251); };
  std::atomic<int64_t> next{0};
  constexpr int64_t kSlices = (kBytes + kSlice - 1) / kSlice;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread)
    threads.emplace_back([&] {
      for (int64_t work; (work = next.fetch_add(1)) < kTensors * kSlices;) {
        const int64_t t = work % kTensors, begin = work / kTensors * kSlice,
                      end = std::min(kBytes, begin + kSlice);
        std::vector<std::byte> bytes;
        for (int64_t i = begin; i < end; ++i) bytes.push_back(value(t, i));
        writer.write_slice("t" + std::to_string(t), static_cast<uint64_t>(begin), bytes);
      }
    });
  for (std::thread& thread : threads) thread.join();
  writer.commit();
  const SafetensorsFile file(scratch / "a.safetensors");
  for (int64_t t = 0; t < kTensors; ++t) {
    const std::span<const std::byte> bytes = file.bytes("t" + std::to_string(t));
    for (int64_t i = 0; i < kBytes; ++i)
      ASSERT_EQ(bytes[static_cast<size_t>(i)], value(t, i)) << t << " " << i;
  }
}

TEST(Safetensors, written_files_read_back_aligned) {
  const test::ScratchDirectory scratch;
  const auto path = scratch / "a.safetensors";
  const std::vector<TensorDeclaration> tensors{{"a.bf16", Dtype::BF16, {3}},
                                               {"b.u8", Dtype::U8, {1, 5}},
                                               {"c.f32", Dtype::F32, {2, 2}},
                                               {"d.i64", Dtype::I64, {}},
                                               {"e.none", Dtype::F32, {0}}};
  SafetensorsWriter writer(path, tensors, {{"step", "7"}});
  const float c[4] = {1, 2, 3, 4};
  const int64_t d = -5;
  writer.write_slice("c.f32", 8, std::as_bytes(std::span(c)).subspan(8));  // in any order
  writer.write("d.i64", std::as_bytes(std::span(&d, 1)));
  writer.write("b.u8", as_bytes("hello"));
  writer.write_slice("c.f32", 0, std::as_bytes(std::span(c)).first(8));
  writer.write("a.bf16", as_bytes("123456"));
  EXPECT_FALSE(std::filesystem::exists(path));
  writer.commit();

  const SafetensorsFile file(path);
  EXPECT_EQ(std::filesystem::file_size(path), writer.file_bytes());
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.metadata().at("step"), "7");
  EXPECT_THAT(values<float>(file.bytes("c.f32")), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(values<int64_t>(file.bytes("d.i64")), ElementsAre(-5));
  EXPECT_EQ(file.at("e.none").bytes, 0u);
  for (const TensorEntry& entry : file.tensors())
    EXPECT_EQ(entry.offset % static_cast<uint64_t>(dtype_bits(entry.dtype) / 8), 0u) << entry.name;
}

TEST(Safetensors, the_writer_refuses_wrong_use) {
  const test::ScratchDirectory scratch;
  const auto path = scratch / "a.safetensors";
  const std::vector<TensorDeclaration> tensors{{"a", Dtype::U8, {4}}, {"b", Dtype::U8, {1}}};
  {
    SafetensorsWriter writer(path, tensors);
    EXPECT_THROW(writer.write("c", as_bytes("x")), CheckpointError);
    EXPECT_THROW(writer.write("a", as_bytes("xyz")), CheckpointError);
    EXPECT_THROW(writer.write_slice("a", 3, as_bytes("xy")), CheckpointError);
    writer.write("a", as_bytes("1234"));
    EXPECT_THROW(writer.write_slice("a", 0, as_bytes("1")), CheckpointError);
  }
  {
    SafetensorsWriter writer(path, tensors);
    writer.write("a", as_bytes("1234"));
    try {
      writer.commit();
      FAIL() << "an incomplete file was committed";
    } catch (const CheckpointError& e) {
      EXPECT_THAT(e.what(), HasSubstr("\"b\" is not complete: 0 of 1 bytes"));
    }
  }
  EXPECT_TRUE(std::filesystem::is_empty(path.parent_path())) << "a file was left behind";
  const std::vector<TensorDeclaration> twice{{"a", Dtype::U8, {4}}, {"a", Dtype::U8, {1}}};
  EXPECT_THROW(SafetensorsWriter(path, twice), CheckpointError);
  const std::vector<TensorDeclaration> not_utf8{{"a\xff", Dtype::U8, {4}}};
  EXPECT_THROW(SafetensorsWriter(path, not_utf8), CheckpointError);
  const std::vector<TensorDeclaration> overflow{{"a", Dtype::F32, {1ll << 40, 1ll << 40}}};
  EXPECT_THROW(SafetensorsWriter(path, overflow), CheckpointError);
  const std::vector<TensorDeclaration> half_a_byte{{"a", Dtype::F4, {3}}};
  EXPECT_THROW(SafetensorsWriter(path, half_a_byte), CheckpointError);
}

TEST(Safetensors, hostile_headers_are_refused_by_name_and_place) {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_EQ(refusal(good, 8), "");
  EXPECT_EQ(refusal(good + "   ", 8), "") << "padding with spaces belongs to the format";
  EXPECT_EQ(refusal("{}", 0), "");

  EXPECT_THAT(refusal(""), HasSubstr("truncated"));
  EXPECT_THAT(refusal("1234567"), HasSubstr("truncated"));
  EXPECT_THAT(refusal(std::string(8, '\0')), HasSubstr("byte 8"));
  EXPECT_THAT(refusal(std::string(64, '\xff')), HasSubstr("18446744073709551615"));
  EXPECT_THAT(refusal(file_text(good, 0).substr(0, 30)), HasSubstr("past the file"));
  EXPECT_THAT(refusal(std::string("PK\x03\x04") + std::string(60, 'a')),
              HasSubstr("is this a safetensors file?"));
  EXPECT_THAT(refusal("[]", 0), HasSubstr("'{'"));
  EXPECT_THAT(refusal("{\"a\"", 0), HasSubstr("not valid JSON at byte"));
  EXPECT_THAT(refusal("{\"\xff\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0),
              HasSubstr("UTF-8"));

  EXPECT_THAT(refusal(good, 7), HasSubstr("tensor \"a\": data_offsets [0, 8] end past the file"));
  EXPECT_THAT(refusal(good, 9), HasSubstr("1 bytes after its last tensor"));
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return refusal(
        R"({"a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}", 8);
  };
  EXPECT_THAT(one(R"("F32")", "[3]", "[0,8]"), HasSubstr("needs 12 bytes"));
  EXPECT_THAT(one(R"("F33")", "[2]", "[0,8]"), HasSubstr("\"F33\" is unknown"));
  EXPECT_THAT(one("3", "[2]", "[0,8]"), HasSubstr("dtype is no string"));
  EXPECT_THAT(one(R"("F32")", "[-2]", "[0,8]"), HasSubstr("whole number"));
  EXPECT_THAT(one(R"("F32")", "[2.0]", "[0,8]"), HasSubstr("whole number"));
  EXPECT_THAT(one(R"("F32")", "2", "[0,8]"), HasSubstr("shape is no list"));
  EXPECT_THAT(one(R"("F32")", "[4611686018427387904,4]", "[0,8]"), HasSubstr("overflows"));
  EXPECT_THAT(one(R"("F32")", "[18446744073709551615]", "[0,8]"), HasSubstr("overflows"));
  EXPECT_THAT(one(R"("F4")", "[3]", "[0,1]"), HasSubstr("inside a byte"));
  EXPECT_THAT(one(R"("F32")", "[2]", "[8,0]"), HasSubstr("end before they begin"));
  EXPECT_THAT(one(R"("F32")", "[2]", "[0]"), HasSubstr("no pair"));
  EXPECT_THAT(one(R"("F32")", "[2]", "[0,8,9]"), HasSubstr("no pair"));
  EXPECT_THAT(one(R"("F32")", "[2]", "[18446744073709551608,18446744073709551615]"),
              HasSubstr("past the file"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2]}})", 8), HasSubstr("no \"data_offsets\""));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", 8),
              HasSubstr("\"x\""));
  EXPECT_THAT(refusal(R"({"a":5})", 0), HasSubstr("no object"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"a":1}})", 0), HasSubstr("__metadata__.a is no string"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                      R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                      0),
              HasSubstr("\"a\" stands twice"));

  const auto two = [](const std::string& first, const std::string& second, size_t bytes) {
    return refusal(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
                       R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}",
                   bytes);
  };
  EXPECT_EQ(two("[4,8]", "[0,4]", 8), "");
  EXPECT_THAT(two("[0,4]", "[3,7]", 7), HasSubstr("tensor \"b\" at byte"));
  EXPECT_THAT(two("[0,4]", "[3,7]", 7), HasSubstr("overlaps tensor \"a\""));
  EXPECT_THAT(two("[0,4]", "[0,4]", 4), HasSubstr("overlaps"));
  EXPECT_THAT(two("[0,4]", "[5,9]", 9), HasSubstr("no holes"));
  EXPECT_THAT(two("[1,5]", "[5,9]", 9), HasSubstr("no holes"));
}

TEST(Safetensors, a_refusal_names_tensor_and_offset) {
  const auto two = [](const std::string& first, const std::string& second, size_t bytes) {
    return refusal(R"({"first":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
                       R"(},"second":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}",
                   bytes);
  };
  const std::string overlap = two("[0,4]", "[3,7]", 7);
  EXPECT_THAT(overlap,
              HasSubstr("tensor \"second\" at byte 125 overlaps tensor \"first\", which ends at byte 126"));
  EXPECT_THAT(two("[0,4]", "[5,9]", 9), HasSubstr("bytes 126 to 127 before tensor \"second\""));
  EXPECT_THAT(two("[0,4]", "[4,8]", 7),
              HasSubstr("tensor \"second\": data_offsets [4, 8] end past the file"));
  EXPECT_THAT(two("[0,4]", "[4,9]", 9),
              HasSubstr("tensor \"second\": U8 [4] needs 4 bytes, but data_offsets [4, 9]"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}})", 8),
              HasSubstr("tensor \"a\": the size of F32 [4611686018427387904, 4] overflows"));
  EXPECT_THAT(refusal("{\"ab\xff\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0),
              HasSubstr("not valid JSON at byte 5"));
  std::string long_header = file_text("{}", 0);
  const uint64_t length = 100'000'001;
  std::memcpy(long_header.data(), &length, 8);
  EXPECT_THAT(refusal(long_header),
              HasSubstr("say that the header has 100000001 bytes; over 100000000 is refused"));
}

TEST(Safetensors, every_truncation_of_a_real_file_is_refused) {
  const std::string whole = read_text_file(FATHOM_SOURCE_DIR "/tests/formats/data/hf_mixed.safetensors");
  ASSERT_EQ(refusal(whole), "");
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_NE(refusal(whole.substr(0, size)), "") << size;
}

TEST(Safetensors, nested_and_long_json_ends_in_an_error_not_a_crash) {
  EXPECT_NE(refusal("{\"a\":" + std::string(200000, '['), 0), "");
  EXPECT_NE(refusal("{\"a\":" + std::string(200000, '[') + std::string(200000, ']') + "}", 0), "");
}

class ShardedSafetensors : public ::testing::Test {
 protected:
  void SetUp() override {
    write("model-00001-of-00002.safetensors", "a", "1234");
    write("model-00002-of-00002.safetensors", "b", "567");
  }
  void write(const std::string& file, const std::string& tensor, const std::string& content) {
    const std::vector<TensorDeclaration> tensors{{tensor, Dtype::U8, {static_cast<int64_t>(content.size())}}};
    SafetensorsWriter writer(directory_ / file, tensors);
    writer.write(tensor, as_bytes(content));
    writer.commit();
  }
  void write_index(const std::map<std::string, std::string>& map) {
    write_safetensors_index(directory_ / kIndexFileName, {map, 7});
  }
  std::string refusal() {
    try {
      const ShardedReader reader(directory_);
      return "";
    } catch (const CheckpointError& e) {
      return e.what();
    }
  }
  test::ScratchDirectory scratch_;
  const std::filesystem::path& directory_ = scratch_.path();
};

TEST_F(ShardedSafetensors, finds_tensors_through_the_index) {
  write_index({{"a", "model-00001-of-00002.safetensors"}, {"b", "model-00002-of-00002.safetensors"}});
  const ShardedReader reader(directory_);
  EXPECT_EQ(reader.files().size(), 2u);
  EXPECT_EQ(reader.tensors().size(), 2u);
  EXPECT_EQ(reader.total_bytes(), 7u);
  EXPECT_EQ(reader.at("b").bytes().size(), 3u);
  EXPECT_EQ(static_cast<char>(reader.at("b").bytes()[2]), '7');
  EXPECT_EQ(reader.at("a").file->path().filename(), "model-00001-of-00002.safetensors");
  EXPECT_EQ(reader.find("c"), nullptr);
  EXPECT_THROW(reader.at("c"), CheckpointError);
  EXPECT_EQ(read_safetensors_index(directory_ / kIndexFileName).total_size, 7u);
  EXPECT_EQ(ShardedReader(directory_ / kIndexFileName).tensors().size(), 2u);
  EXPECT_EQ(ShardedReader(directory_ / "model-00001-of-00002.safetensors").tensors().size(), 1u);
}

TEST_F(ShardedSafetensors, the_index_decides_which_tensors_exist) {
  write_index({{"a", "model-00001-of-00002.safetensors"}});
  write("model-00001-of-00002.safetensors", "stray", "12");
  EXPECT_THAT(refusal(), HasSubstr("\"a\" should be in model-00001-of-00002.safetensors"));
  write_index({{"b", "model-00002-of-00002.safetensors"}});
  EXPECT_EQ(ShardedReader(directory_).unlisted(), 0);
}

TEST_F(ShardedSafetensors, missing_and_foreign_files_are_named) {
  EXPECT_THAT(refusal(), HasSubstr("neither model.safetensors nor model.safetensors.index.json"));
  write_index({{"a", "model-00001-of-00002.safetensors"}, {"b", "model-00009-of-00002.safetensors"}});
  EXPECT_THAT(refusal(), HasSubstr("1 of 2 files that its index names are missing: model-00009-of-00002"));
  write_index({{"a", "../model.safetensors"}});
  EXPECT_THAT(refusal(), HasSubstr("no file of this directory"));
  write_text_file(directory_ / kIndexFileName, "{\"weight_map\": [}");
  EXPECT_THAT(refusal(), HasSubstr("not valid JSON"));
  write_text_file(directory_ / kIndexFileName, "[1]");
  EXPECT_THAT(refusal(), HasSubstr("no \"weight_map\""));
}

TEST(ShardPlan, cuts_in_order_and_gives_a_large_tensor_its_own_file) {
  const std::vector<TensorDeclaration> tensors{{"a", Dtype::U8, {3}},
                                               {"b", Dtype::U8, {4}},
                                               {"c", Dtype::U8, {1}},
                                               {"d", Dtype::U8, {9}},
                                               {"e", Dtype::U8, {7}}};
  const auto shards = plan_shards(tensors, 7);
  ASSERT_EQ(shards.size(), 4u);
  EXPECT_EQ(shards[0].file, "model-00001-of-00004.safetensors");
  EXPECT_EQ(shards[0].tensors.size(), 2u);
  EXPECT_EQ(shards[1].tensors[0].name, "c");
  EXPECT_EQ(shards[2].tensors[0].name, "d");
  EXPECT_EQ(shards[3].tensors[0].name, "e");
  EXPECT_EQ(plan_shards(tensors, 1000).size(), 1u);
  EXPECT_EQ(plan_shards(tensors, 1000)[0].file, "model.safetensors");
  EXPECT_EQ(plan_shards({}, 5).size(), 1u);
}

TEST(Safetensors, an_index_of_a_hundred_thousand_tensors_opens_quickly) {
  // R1's index has 91,991 names: a quadratic reader needs minutes here and runs into the test's time-out.
  std::vector<TensorDeclaration> tensors;
  for (int i = 0; i < 100000; ++i)
    tensors.push_back(
        {"model.layers." + std::to_string(i) + ".mlp.experts.0.up_proj.weight", Dtype::U8, {0, 3}});
  const test::ScratchDirectory scratch;
  const auto path = scratch / "many.safetensors";
  SafetensorsWriter(path, tensors).commit();
  EXPECT_EQ(SafetensorsFile(path).tensors().size(), tensors.size());
}

}  // namespace
}  // namespace fathom::formats
