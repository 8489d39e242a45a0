# libtightkv, shared and static from one set of objects, and what a user needs to find it.
file(GLOB lib_files CONFIGURE_DEPENDS src/base/*.c src/format/*.c src/cpu/*.c src/kernels/*.c src/codec/*.c
     src/index/*.c src/cache/*.c src/attn/*.c src/api/*.c)
add_library(tkv_objects OBJECT ${lib_files} ${kernel_files})
target_include_directories(tkv_objects PRIVATE include src)
target_compile_definitions(tkv_objects PRIVATE TKV_BUILDING ${kernel_defs})
target_link_libraries(tkv_objects PRIVATE tkv_flags)

foreach(kind SHARED STATIC)
    string(TOLOWER ${kind} suffix)
    add_library(tightkv_${suffix} ${kind} $<TARGET_OBJECTS:tkv_objects>)
    add_library(tightkv::${suffix} ALIAS tightkv_${suffix})
    set_target_properties(tightkv_${suffix} PROPERTIES OUTPUT_NAME tightkv EXPORT_NAME ${suffix}
                          VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
    target_include_directories(tightkv_${suffix} INTERFACE
        $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
    target_link_libraries(tightkv_${suffix} PRIVATE $<BUILD_INTERFACE:tkv_flags> PUBLIC m)
endforeach()
target_compile_definitions(tightkv_shared INTERFACE TKV_SHARED)
add_library(tightkv::tightkv ALIAS tightkv_static)
