# Writes the man page and the completions of the command into a directory:
#   cmake -DCOMMAND=PROGRAM -DDIRECTORY=DIRECTORY -P write_up.cmake

file(MAKE_DIRECTORY "${DIRECTORY}")

function(write_up name)
  execute_process(COMMAND "${COMMAND}" ${ARGN}
    OUTPUT_FILE "${DIRECTORY}/${name}" RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "${COMMAND} ${ARGN} failed: ${failed}")
  endif()
endfunction()

write_up(vmstore.1 man)
write_up(vmstore completions bash)
write_up(_vmstore completions zsh)
write_up(vmstore.fish completions fish)
