// GGUF against files of the gguf package (make_gguf_fixtures.py), back and forth, and files that lie.
#include "formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <vector>

#include "base/error.h"
#include "support/scratch.h"

namespace fathom::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const fs::path kData = fs::path(FATHOM_SOURCE_DIR) / "tests/formats/data";

template <typename T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void put_text(std::string& out, std::string_view text) {
  put<uint64_t>(out, text.size());
  out += text;
}

std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string refusal(const std::string& file) {
  try {
    parse_gguf_header(as_bytes(file), file.size(), "x.gguf");
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

struct Lie {
  uint32_t version = 3;
  uint64_t num_tensors = 2, num_values = 1;
  uint32_t value_type = 4;  // of the one key
  std::string value = std::string("\x20\0\0\0", 4);
  std::string key = "general.alignment", second_name = "b";
  std::vector<uint64_t> dims = {4, 2};
  uint32_t element_type = 0;
  uint64_t second_offset = 32;
  size_t data_bytes = 64;

  std::string file() const {
    std::string out = "GGUF";
    put(out, version);
    put(out, num_tensors);
    put(out, num_values);
    put_text(out, key);
    put(out, value_type);
    out += value;
    const auto tensor = [&](std::string_view name, const std::vector<uint64_t>& shape, uint32_t type,
                            uint64_t at) {
      put_text(out, name);
      put(out, static_cast<uint32_t>(shape.size()));
      for (const uint64_t dim : shape) put(out, dim);
      put(out, type);
      put(out, at);
    };
    tensor("a", {8}, 0, 0);
    tensor(second_name, dims, element_type, second_offset);
    out.resize((out.size() + 31) / 32 * 32);
    return out + std::string(data_bytes, 'x');
  }
};

TEST(Gguf, reads_every_value_type_as_the_gguf_package_wrote_it) {
  const GgufFile file(kData / "every_type.gguf");
  const GgufHeader& header = file.header();
  EXPECT_EQ(header.version, 3U);
  const auto value = [&](const char* key) { return header.find(key)->value; };
  EXPECT_EQ(std::get<std::string>(value("general.architecture")), "deepseek2");
  EXPECT_EQ(std::get<uint64_t>(value("a.uint8")), 200U);
  EXPECT_EQ(std::get<int64_t>(value("a.int8")), -100);
  EXPECT_EQ(std::get<uint64_t>(value("a.uint16")), 60000U);
  EXPECT_EQ(std::get<int64_t>(value("a.int16")), -30000);
  EXPECT_EQ(std::get<uint64_t>(value("a.uint32")), 4000000000U);
  EXPECT_EQ(std::get<int64_t>(value("a.int32")), -2000000000);
  EXPECT_EQ(std::get<double>(value("a.float32")), static_cast<double>(0.1F));
  EXPECT_EQ(std::get<bool>(value("a.bool")), true);
  EXPECT_EQ(std::get<std::string>(value("a.string")), "gr\xc3\xbc\xc3\x9f dich");
  EXPECT_EQ(std::get<uint64_t>(value("a.uint64")), (uint64_t{1} << 63) + 5);
  EXPECT_EQ(std::get<int64_t>(value("a.int64")), -(int64_t{1} << 62));
  EXPECT_EQ(std::get<double>(value("a.float64")), 0.1);
  EXPECT_EQ(header.find("a.strings")->element_type, GgufType::string);
  const auto strings = std::get<GgufValue::Array>(value("a.strings"));
  ASSERT_EQ(strings.size(), 3U);
  EXPECT_EQ(std::get<std::string>(strings[2].value), "three");
  EXPECT_EQ(std::get<GgufValue::Array>(value("a.ints"))[1].value,
            GgufValue({GgufType::int32, {}, int64_t{-2}}).value);
  EXPECT_EQ(header.find("a.missing"), nullptr);

  ASSERT_EQ(file.tensors().size(), 3U);
  EXPECT_THAT(file.at("matrix").shape, ElementsAre(2, 3));
  EXPECT_THAT(file.at("cube").shape, ElementsAre(2, 3, 4));
  EXPECT_EQ(file.at("vector").type, GgmlType::F16);
  float last;
  std::memcpy(&last, file.bytes(file.at("matrix")).data() + 5 * sizeof last, sizeof last);
  EXPECT_EQ(last, 5.0F);
  EXPECT_THROW(file.at("tensor"), CheckpointError);
}

TEST(Gguf, what_is_written_reads_the_same) {
  const test::ScratchDirectory scratch;
  const GgufFile source(kData / "every_type.gguf");
  std::vector<GgufDeclaration> tensors;
  for (const GgufTensor& tensor : source.tensors())
    tensors.push_back({tensor.name, tensor.type, tensor.shape});
  tensors.push_back({"empty", GgmlType::Q8_0, {0, 32}});
  tensors.push_back({"odd", GgmlType::I8, {3}});
  const fs::path path = scratch / "copy.gguf";
  {
    GgufWriter writer(path, source.header().metadata, tensors);
    for (size_t i = 0; i < source.tensors().size(); ++i) {
      const auto bytes = source.bytes(source.tensors()[i]);
      writer.write_slice(i, 4, bytes.subspan(4));
      writer.write_slice(i, 0, bytes.first(4));
    }
    EXPECT_THROW(writer.commit(), CheckpointError);  // odd is not there
    writer.write_slice(4, 0, as_bytes("abc"));
    EXPECT_THROW(writer.write_slice(4, 1, as_bytes("abc")), CheckpointError);
    EXPECT_FALSE(fs::exists(path));
    writer.commit();
  }
  EXPECT_TRUE(is_gguf_file(path));
  const GgufFile copy(path);
  EXPECT_EQ(copy.header().metadata, source.header().metadata);
  for (const GgufTensor& tensor : source.tensors()) {
    const auto a = source.bytes(tensor), b = copy.bytes(copy.at(tensor.name));
    ASSERT_EQ(a.size(), b.size());
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size()), 0) << tensor.name;
  }
  EXPECT_EQ(copy.at("odd").bytes, 3U);
  EXPECT_EQ(copy.size() % GgufWriter::kAlignment, 0U);  // the padding of the last tensor is there
}

TEST(Gguf, the_writer_refuses_what_readers_would) {
  const test::ScratchDirectory scratch;
  const fs::path path = scratch / "x.gguf";
  const auto write = [&](const GgufMetadata& metadata, const std::vector<GgufDeclaration>& tensors) {
    const GgufWriter writer(path, metadata, tensors);
  };
  EXPECT_THROW(write({{"a", GgufValue::u32(1)}, {"a", GgufValue::u32(1)}}, {}), CheckpointError);
  EXPECT_THROW(write({}, {{"a", GgmlType::F32, {1}}, {"a", GgmlType::F32, {1}}}), CheckpointError);
  EXPECT_THROW(write({}, {{std::string(64, 'a'), GgmlType::F32, {1}}}), CheckpointError);
  EXPECT_THROW(write({}, {{"a", GgmlType::Q4_0, {4, 33}}}), CheckpointError);
  GgufWriter writer(path, {}, {{"a", GgmlType::I8, {3}}});
  writer.write_slice(0, 0, as_bytes("abc"));
  EXPECT_THROW(writer.write_slice(0, 0, as_bytes("abc")), CheckpointError);
  EXPECT_FALSE(fs::exists(path));
}

TEST(Gguf, a_file_that_lies_is_refused_by_name_and_place) {
  ASSERT_EQ(refusal(Lie().file()), "");
  const auto lie = [](const std::function<void(Lie&)>& change) {
    Lie it;
    change(it);
    return refusal(it.file());
  };
  EXPECT_THAT(refusal("GGML"), HasSubstr("no GGUF file"));
  EXPECT_THAT(refusal(""), HasSubstr("no GGUF file"));
  EXPECT_THAT(lie([](Lie& x) { x.version = 1; }), HasSubstr("version 1 is not read"));
  EXPECT_THAT(lie([](Lie& x) { x.version = 0x03000000; }), HasSubstr("big-endian"));
  EXPECT_THAT(lie([](Lie& x) { x.num_tensors = uint64_t{1} << 60; }), HasSubstr("tensors do not fit"));
  EXPECT_THAT(lie([](Lie& x) { x.num_values = uint64_t{1} << 60; }), HasSubstr("keys do not fit"));
  EXPECT_THAT(lie([](Lie& x) { x.value_type = 13; }), HasSubstr("value type 13 is unknown"));
  EXPECT_THAT(lie([](Lie& x) { x.value_type = 8, x.value = std::string(8, '\xff'); }),
              HasSubstr("key \"general.alignment\" at byte"));
  EXPECT_THAT(lie([](Lie& x) { x.value = std::string("\x14\0\0\0", 4); }),
              HasSubstr("general.alignment: expected"));
  EXPECT_THAT(lie([](Lie& x) { x.value = std::string(4, '\0'); }), HasSubstr("general.alignment: expected"));
  EXPECT_THAT(lie([](Lie& x) { x.value_type = 5; }), HasSubstr("general.alignment: expected"));
  EXPECT_THAT(lie([](Lie& x) { x.second_name = "a"; }), HasSubstr("tensor \"a\" stands twice"));
  EXPECT_THAT(lie([](Lie& x) { x.element_type = 4; }), HasSubstr("tensor \"b\" at byte"));
  EXPECT_THAT(lie([](Lie& x) { x.element_type = 8; }), HasSubstr("no whole number of Q8_0 blocks"));
  EXPECT_THAT(lie([](Lie& x) { x.dims = {1, 1, 1, 1, 1}; }), HasSubstr("5 dimensions"));
  EXPECT_THAT(lie([](Lie& x) { x.dims = {uint64_t{1} << 63}; }), HasSubstr("overflows"));
  EXPECT_THAT(lie([](Lie& x) { x.dims = {uint64_t{1} << 40, uint64_t{1} << 40}; }), HasSubstr("overflows"));
  EXPECT_THAT(lie([](Lie& x) { x.second_offset = 8; }), HasSubstr("no multiple of the alignment"));
  EXPECT_THAT(lie([](Lie& x) { x.second_offset = 0; }), HasSubstr("overlaps tensor"));
  EXPECT_THAT(lie([](Lie& x) { x.second_offset = 64; }), HasSubstr("end past the file"));
  EXPECT_THAT(lie([](Lie& x) { x.data_bytes = 63; }), HasSubstr("end past the file"));

  std::string array = std::string("\x08\0\0\0", 4);  // of strings
  put(array, uint64_t{1} << 61);
  EXPECT_THAT(lie([&](Lie& x) { x.value_type = 9, x.value = array; }),
              HasSubstr("elements of string do not fit"));
  std::string nested;  // an array of one array of one array ...
  for (int i = 0; i < 8; ++i) put(nested, uint32_t{9}), put(nested, uint64_t{1});
  EXPECT_THAT(lie([&](Lie& x) { x.value_type = 9, x.value = nested + std::string(16, '\0'); }),
              HasSubstr("arrays lie in arrays"));

  // Cut anywhere it is refused, and never read past its end.
  const std::string whole = Lie().file();
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::string cut(whole.data(), length);
    EXPECT_NE(refusal(cut), "") << length;
  }
}

}  // namespace
}  // namespace fathom::formats
