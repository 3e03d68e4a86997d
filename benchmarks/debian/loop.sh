# Variables, arithmetic, strings and functions of the shell, without other programs.
add() { local a=$1 b=$2; total=$((total + a * b % 7)); }
total=0 text=
for ((i = 0; i < $1; i++)); do
    add $i 3
    case $((i % 4)) in
    0) text=${text}x ;;
    1) [[ $text == *xx* ]] && text=${text#x} ;;
    *) list[i % 50]=$i ;;
    esac
done
echo $total ${#text} ${#list[@]}
