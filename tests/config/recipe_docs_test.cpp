// docs/recipes.md holds a table for each section, made from recipe_keys(). After a change of keys run this
// test with FATHOM_UPDATE_DOCS=1, which rewrites the tables.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "config/recipe.h"

namespace fathom::config {
namespace {

const fs::path kDoc = fs::path(FATHOM_SOURCE_DIR) / "docs/recipes.md";
const std::string kBegin = "<!-- keys: generated from recipe_keys() -->\n";
const std::string kEnd = "<!-- end of keys -->\n";

std::string section_of(const KeyDoc& doc) {
  const size_t dot = doc.path.rfind('.');
  return dot == std::string::npos ? "" : doc.path.substr(0, dot);
}

std::string tables() {
  std::vector<KeyDoc> sections = {{"", "section", "", "", ""}};
  for (const KeyDoc& doc : recipe_keys())
    if (doc.type == "section") sections.push_back(doc);
  std::string text;
  for (const KeyDoc& section : sections) {
    text += section.path.empty() ? "\n### Top level\n\n"
                                 : fmt::format("\n### `{}`\n\n{}\n\n", section.path, section.meaning);
    text += "| key | type | default | unit | meaning |\n| --- | --- | --- | --- | --- |\n";
    for (const KeyDoc& doc : recipe_keys()) {
      std::string parent = section_of(doc);
      if (const size_t list = parent.find("[]"); list != std::string::npos)
        parent = parent.substr(0, parent.rfind('.'));
      if (doc.type == "section" || parent != section.path) continue;
      text += fmt::format("| `{}` | {} | {} | {} | {} |\n", doc.path, doc.type, doc.default_value, doc.unit,
                          doc.meaning);
    }
  }
  return text + "\n";
}

TEST(RecipeDocs, the_tables_are_those_of_the_code) {
  std::string doc = read_text_file(kDoc);
  const size_t begin = doc.find(kBegin), end = doc.find(kEnd);
  ASSERT_NE(begin, std::string::npos);
  ASSERT_NE(end, std::string::npos);
  const size_t start = begin + kBegin.size();
  if (std::getenv("FATHOM_UPDATE_DOCS")) {
    doc.replace(start, end - start, tables());
    write_text_file(kDoc, doc);
    return;
  }
  EXPECT_EQ(doc.substr(start, end - start), tables());
}

TEST(RecipeDocs, every_key_is_complete_and_stands_once) {
  std::set<std::string> paths;
  for (const KeyDoc& doc : recipe_keys()) {
    EXPECT_TRUE(paths.insert(doc.path).second) << doc.path << " stands twice";
    EXPECT_FALSE(doc.type.empty()) << doc.path;
    EXPECT_FALSE(doc.meaning.empty()) << doc.path;
    EXPECT_TRUE(doc.type == "section" || !doc.default_value.empty()) << doc.path;
    EXPECT_EQ(doc.meaning.find('|'), std::string::npos) << doc.path << ": breaks the table";
  }
  EXPECT_GE(paths.size(), 60U);
}

}  // namespace
}  // namespace fathom::config
