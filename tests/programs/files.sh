# A dozen and more applets of busybox with files, in a new directory in the one that is given; pipes, substitution.
set -e
own=$(mktemp -d "$1/files.XXXXXX")
cd "$own"; mkdir -p a/b
seq 1 1000 > numbers; cp numbers a/copy; mv a/copy a/b/moved; ln -s b/moved a/link; ln numbers hard
cat a/link | wc; sort -rn numbers | head -3; tail -2 hard; grep -c 7 numbers; sed -n 's/^99$/found/p' numbers
tr 0-9 a-j < numbers | head -2; cut -c1 numbers | sort | uniq -c; awk '{s += $1} END {print s}' numbers
find . | sort; tar cf t.tar a numbers; tar tf t.tar; gzip -c numbers | gunzip | md5sum; od -c numbers | head -2
dd if=numbers of=part bs=10 skip=1 count=3 2>/dev/null; cat part; diff numbers hard && echo equal
touch empty; stat -c '%n %a %s %F %h' empty numbers a/link; stat -c '%n %a %F' a; chmod 700 empty; stat -c %a empty
ls -1 | xargs -n 2 echo; echo one | tee two three; cat two three; readlink a/link
for i in 1 2 3; do (echo "process $i"; exit $i) || echo "status $?"; done
cat << END | while read line; do echo "read $line"; done
of here
documents
END
echo "$(echo nested $(echo substitution))"; yes | head -2; expr 6 \* 7; test -d a && [ ! -e none ] && echo right
printf '#!/bin/busybox sh\necho script "$@"\n' > s; chmod +x s; true
cmp numbers a/b/moved; rm -r a; ls; mkdir x; rmdir x; cd /; rm -r "$own"
