# Compiler flags, and the third-party libraries that every layer may use.
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
# Asserts are for our own bugs and stay on in release.
set(CMAKE_CXX_FLAGS_RELEASE "-O2")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g")

find_program(CCACHE ccache)
if(CCACHE)
  # The sloppiness is what ccache asks for with precompiled headers.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE})
  add_compile_options($<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
endif()
find_program(MOLD mold)
if(MOLD AND NOT FATHOM_SANITIZE)
  add_link_options(-fuse-ld=mold)
endif()
if(FATHOM_SANITIZE)
  add_compile_options(-fsanitize=${FATHOM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${FATHOM_SANITIZE})
endif()

# The floor of the base code; per-set flags are on src/kernels/cpu/<set>/ only (library.cmake).
add_compile_options(-march=x86-64-v2 -ffp-contract=off)

add_library(fathom_warnings INTERFACE)
target_compile_options(fathom_warnings INTERFACE -Wall -Wextra -Wpedantic -Werror)

find_package(Threads REQUIRED)
find_package(ZLIB REQUIRED)
find_library(YAML_CPP yaml-cpp REQUIRED)
find_library(ZSTD zstd REQUIRED)
find_library(SQLITE sqlite3 REQUIRED)
add_library(zstd INTERFACE)
target_link_libraries(zstd INTERFACE ${ZSTD})
add_library(sqlite INTERFACE)  # indices of MindRecord files
target_link_libraries(sqlite INTERFACE ${SQLITE})
add_library(xxhash_headers INTERFACE)  # Debian's header, used inline
add_library(yaml_cpp INTERFACE)
target_link_libraries(yaml_cpp INTERFACE ${YAML_CPP})
