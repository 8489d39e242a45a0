# libtightkv, shared and static from one set of objects, and what a user needs to find it.
file(GLOB lib_files CONFIGURE_DEPENDS src/base/*.c src/format/*.c src/cpu/*.c src/kernels/*.c src/codec/*.c
     src/tier/*.c src/index/*.c src/cache/*.c src/attn/*.c src/api/*.c)
add_library(tkv_objects OBJECT ${lib_files} ${kernel_files})
target_include_directories(tkv_objects PRIVATE include src)
target_compile_definitions(tkv_objects PRIVATE TKV_BUILDING ${kernel_defs})
target_link_libraries(tkv_objects PRIVATE tkv_flags)

# xxHash is a header that is the same for every target: copied, so that cross-compilers find it without the rest of
# the host's headers.
find_path(TKV_XXHASH_DIR xxhash.h NO_CMAKE_FIND_ROOT_PATH)
if(NOT TKV_XXHASH_DIR)
    message(FATAL_ERROR "xxhash.h not found: install libxxhash-dev, or set TKV_XXHASH_DIR to its folder")
endif()
configure_file(${TKV_XXHASH_DIR}/xxhash.h ${CMAKE_CURRENT_BINARY_DIR}/xxhash/xxhash.h COPYONLY)
target_include_directories(tkv_objects SYSTEM PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/xxhash)

# Without liburing, the spill file is read by the caller's threads.
set(uring "")
find_path(TKV_URING_DIR liburing.h)
find_library(TKV_URING_LIBRARY uring)
if(TKV_URING AND TKV_URING_DIR AND TKV_URING_LIBRARY)
    set(uring uring)
    target_compile_definitions(tkv_objects PRIVATE TKV_HAVE_URING)
elseif(TKV_URING)
    message(STATUS "liburing not found: spilled pages are read without io_uring")
endif()

foreach(kind SHARED STATIC)
    string(TOLOWER ${kind} suffix)
    add_library(tightkv_${suffix} ${kind} $<TARGET_OBJECTS:tkv_objects>)
    add_library(tightkv::${suffix} ALIAS tightkv_${suffix})
    set_target_properties(tightkv_${suffix} PROPERTIES OUTPUT_NAME tightkv EXPORT_NAME ${suffix}
                          VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
    target_include_directories(tightkv_${suffix} INTERFACE
        $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
    target_link_libraries(tightkv_${suffix} PRIVATE $<BUILD_INTERFACE:tkv_flags> ${uring} PUBLIC m)
endforeach()
target_compile_definitions(tightkv_shared INTERFACE TKV_SHARED)
add_library(tightkv::tightkv ALIAS tightkv_static)
