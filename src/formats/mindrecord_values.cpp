#include "formats/mindrecord_values.h"

#include <bit>
#include <cstring>
#include <limits>

#include <fmt/format.h>

namespace fathom::formats {
namespace {

// Little-endian, sign-extended.
int64_t signed_value(const char* bytes, size_t width) {
  uint64_t value = 0;
  for (size_t i = width; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  if (width == 8) return std::bit_cast<int64_t>(value);
  const uint64_t sign = uint64_t{1} << (8 * width - 1);
  return std::bit_cast<int64_t>((value ^ sign) - sign);
}

uint64_t big_endian(std::string_view bytes) {
  uint64_t value = 0;
  for (const char byte : bytes) value = value << 8 | static_cast<uint8_t>(byte);
  return value;
}

int width_code(int64_t value) {
  if (value == static_cast<int8_t>(value)) return 0;
  if (value == static_cast<int16_t>(value)) return 1;
  return value == static_cast<int32_t>(value) ? 2 : 3;
}

class ScalarReader {
 public:
  explicit ScalarReader(std::string_view bytes) : left_(bytes) {}

  std::string read(MindScalars& out) {
    if (left_.empty()) return "it is empty";
    const auto lead = static_cast<uint8_t>(left_[0]);
    uint64_t count = 0;
    left_.remove_prefix(1);
    if ((lead & 0xF0) == 0x80)
      count = lead & 0x0F;
    else if ((lead != 0xDE || !number(2, count)) && (lead != 0xDF || !number(4, count)))
      return "it is no MessagePack map";
    for (uint64_t i = 0; i < count; ++i) {
      MindValue key, value;
      if (!scalar(key) || !std::holds_alternative<std::string>(key))
        return fmt::format("key {} is no string", i);
      const std::string& name = std::get<std::string>(key);
      if (!scalar(value)) return fmt::format("{:?} is no number or string, or ends early", name);
      if (!out.emplace(name, std::move(value)).second) return fmt::format("{:?} stands twice", name);
    }
    return left_.empty() ? "" : fmt::format("{} bytes are left behind the map", left_.size());
  }

 private:
  bool take(uint64_t size, std::string_view& bytes) {
    if (size > left_.size()) return false;
    bytes = left_.substr(0, size);
    left_.remove_prefix(size);
    return true;
  }
  bool number(size_t width, uint64_t& value) {
    std::string_view bytes;
    if (!take(width, bytes)) return false;
    value = big_endian(bytes);
    return true;
  }
  bool text(uint64_t size, MindValue& value) {
    std::string_view bytes;
    if (!take(size, bytes)) return false;
    value = std::string(bytes);
    return true;
  }
  bool scalar(MindValue& value) {
    std::string_view head;
    if (!take(1, head)) return false;
    const auto lead = static_cast<uint8_t>(head[0]);
    uint64_t bits = 0;
    if (lead < 0x80) return value = int64_t{lead}, true;
    if (lead >= 0xE0) return value = int64_t{static_cast<int8_t>(lead)}, true;
    if ((lead & 0xE0) == 0xA0) return text(lead & 0x1F, value);
    switch (lead) {
      case 0xC2:
      case 0xC3:
        return value = int64_t{lead == 0xC3}, true;
      case 0xCA:
        if (!number(4, bits)) return false;
        return value = double{std::bit_cast<float>(static_cast<uint32_t>(bits))}, true;
      case 0xCB:
        if (!number(8, bits)) return false;
        return value = std::bit_cast<double>(bits), true;
      case 0xCC:
      case 0xCD:
      case 0xCE:
      case 0xCF:
        if (!number(size_t{1} << (lead - 0xCC), bits) || bits > uint64_t{std::numeric_limits<int64_t>::max()})
          return false;
        return value = static_cast<int64_t>(bits), true;
      case 0xD0:
      case 0xD1:
      case 0xD2:
      case 0xD3: {
        const size_t width = size_t{1} << (lead - 0xD0);
        if (!number(width, bits)) return false;
        return value = signed_value(reinterpret_cast<const char*>(&bits), width), true;
      }
      case 0xD9:
        return number(1, bits) && text(bits, value);
      case 0xDA:
        return number(2, bits) && text(bits, value);
      case 0xDB:
        return number(4, bits) && text(bits, value);
      default:
        return false;
    }
  }
  std::string_view left_;
};

}  // namespace

std::string decode_mind_integers(std::string_view bytes, MindType type, std::vector<int64_t>& out) {
  out.clear();
  if (bytes.size() < 4) return "it has no room for its count";
  const size_t count = big_endian(bytes.substr(0, 4)), codes = (count + 3) / 4;
  if (codes + count > bytes.size() - 4)
    return fmt::format("its count {} does not fit into {} bytes", count, bytes.size());
  const size_t widest = type == MindType::int32 ? 4 : 8;
  out.reserve(count);
  size_t at = 4 + codes;
  for (size_t i = 0; i < count; ++i) {
    const size_t width = size_t{1} << (static_cast<uint8_t>(bytes[4 + i / 4]) >> (6 - 2 * (i % 4)) & 3);
    if (width > widest) return fmt::format("value {} has {} bytes, more than its type", i, width);
    if (width > bytes.size() - at) return fmt::format("it ends inside value {} of {}", i, count);
    out.push_back(signed_value(bytes.data() + at, width));
    at += width;
  }
  return at == bytes.size() ? ""
                            : fmt::format("{} bytes are left behind its {} values", bytes.size() - at, count);
}

std::string decode_mind_floats(std::string_view bytes, MindType type, std::vector<double>& out) {
  const size_t width = type == MindType::float32 ? 4 : 8;
  out.clear();
  if (bytes.size() % width != 0) return fmt::format("{} bytes are no whole number of values", bytes.size());
  for (size_t at = 0; at < bytes.size(); at += width) {
    if (width == 4) {
      float value;
      std::memcpy(&value, bytes.data() + at, sizeof value);
      out.push_back(value);
    } else {
      double value;
      std::memcpy(&value, bytes.data() + at, sizeof value);
      out.push_back(value);
    }
  }
  return "";
}

std::string decode_mind_scalars(std::string_view bytes, MindScalars& out) {
  return ScalarReader(bytes).read(out);
}

void encode_mind_integers(std::span<const int64_t> values, std::string& out) {
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(values.size() >> shift);
  const size_t codes = out.size();
  out.append((values.size() + 3) / 4, '\0');
  for (size_t i = 0; i < values.size(); ++i) {
    const int code = width_code(values[i]);
    out[codes + i / 4] = static_cast<char>(out[codes + i / 4] | code << (6 - 2 * (i % 4)));
    out.append(reinterpret_cast<const char*>(&values[i]), size_t{1} << code);
  }
}

void encode_mind_floats(std::span<const double> values, MindType type, std::string& out) {
  for (const double value : values) {
    const float narrow = static_cast<float>(value);
    if (type == MindType::float32)
      out.append(reinterpret_cast<const char*>(&narrow), sizeof narrow);
    else
      out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
}

}  // namespace fathom::formats
