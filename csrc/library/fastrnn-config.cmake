# fastrnn::fastrnn, the shared library, and fastrnn::static. find_package(fastrnn @VERSION@)
get_filename_component(_fastrnn_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

if(NOT TARGET fastrnn::fastrnn)
  add_library(fastrnn::fastrnn SHARED IMPORTED)
  set_target_properties(fastrnn::fastrnn PROPERTIES
    IMPORTED_LOCATION "${_fastrnn_prefix}/lib/libfastrnn.so"
    INTERFACE_INCLUDE_DIRECTORIES "${_fastrnn_prefix}/include")

  add_library(fastrnn::static STATIC IMPORTED)
  set_target_properties(fastrnn::static PROPERTIES
    IMPORTED_LOCATION "${_fastrnn_prefix}/lib/libfastrnn.a"
    INTERFACE_INCLUDE_DIRECTORIES "${_fastrnn_prefix}/include"
    INTERFACE_LINK_LIBRARIES "stdc++;m")
endif()

unset(_fastrnn_prefix)
