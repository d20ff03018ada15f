// Which template a checkpoint's chat_template is.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <array>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "chat/template.h"

namespace fathom::chat {
namespace {

// XXH64 of the normalised text of the originals (tests/chat/data/*.jinja).
struct Known {
  uint64_t hash;
  Template which;
};
constexpr std::array<Known, 4> kKnown = {{{0x71a67db741264d08, Template::v3},
                                          {0x89e9e0de680a9ade, Template::v3_0324},
                                          {0xa1ffc7957355ea52, Template::r1},
                                          {0xd6d8edc5664d1c35, Template::v3_1}}};

std::string normalised(std::string_view jinja) {
  std::string text;
  for (size_t i = 0; i < jinja.size(); ++i) {
    if (jinja[i] == '\r') continue;
    if (jinja[i] == '\\' && i + 1 < jinja.size() && jinja[i + 1] == 'n') {
      text += '\n';
      ++i;
    } else {
      text += jinja[i];
    }
  }
  const size_t begin = text.find_first_not_of(" \n\t");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \n\t") - begin + 1);
}

[[noreturn]] void refuse(const std::string& where) {
  throw ConfigError(
      "{}: this template is none of those that are known: DeepSeek-V3, V3-0324, R1 and V3.1. If one of them "
      "is meant, "
      "name it with --chat-template v3|v3-0324|r1|v3.1",
      where);
}

}  // namespace

std::optional<Template> recognise_template(std::string_view jinja) {
  const std::string text = normalised(jinja);
  const uint64_t hash = XXH64(text.data(), text.size(), 0);
  for (const Known& known : kKnown)
    if (known.hash == hash) return known.which;
  return std::nullopt;
}

std::optional<Template> template_of(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "chat_template.jinja";
  std::error_code error;
  if (std::filesystem::exists(file, error)) {
    const auto which = recognise_template(read_text_file(file));
    if (!which) refuse(file.string());
    return which;
  }
  const std::filesystem::path config = directory / "tokenizer_config.json";
  if (!std::filesystem::exists(config, error)) return std::nullopt;
  const Json json = read_json_file(config);
  if (!json.is_object() || !json.contains("chat_template") || json["chat_template"].is_null())
    return std::nullopt;
  const Json* text = &json["chat_template"];
  const std::string where = config.string() + ": chat_template";
  // Several named ones: transformers takes "default".
  if (text->is_array())
    for (const Json& named : json["chat_template"])
      if (named.is_object() && named.value("name", Json()) == "default" && named.contains("template"))
        text = &named["template"];
  if (!text->is_string()) throw ConfigError("{}: expected a string", where);
  const auto which = recognise_template(text->get_ref<const std::string&>());
  if (!which) refuse(where);
  return which;
}

}  // namespace fathom::chat
