# What `cmake --install` puts where, and how others find it: pkg-config and find_package(tightkv).
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/tightkv)
install(TARGETS tightkv_shared tightkv_static EXPORT tightkv
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY include/tightkv DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT tightkv NAMESPACE tightkv:: FILE tightkv-targets.cmake DESTINATION ${package_dir})

configure_package_config_file(cmake/tightkv-config.cmake.in tightkv-config.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(tightkv-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/tightkv-config.cmake
        ${CMAKE_CURRENT_BINARY_DIR}/tightkv-config-version.cmake DESTINATION ${package_dir})

# The pkg-config file finds its prefix from where it lies, so that an installed tree can be moved.
set(pc_prefix "${CMAKE_INSTALL_PREFIX}")
if(NOT IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
    file(RELATIVE_PATH up "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
    set(pc_prefix "\${pcfiledir}/${up}")
endif()
foreach(dir LIBDIR INCLUDEDIR)
    set(pc_${dir} "${CMAKE_INSTALL_${dir}}")
    if(NOT IS_ABSOLUTE "${pc_${dir}}")
        set(pc_${dir} "\${prefix}/${pc_${dir}}")
    endif()
endforeach()
set(pc_uring "")
if(uring)
    set(pc_uring " -luring")
endif()
configure_file(cmake/tightkv.pc.in tightkv.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/tightkv.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
